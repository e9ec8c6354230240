//! Lists the open connections of the workers by their tags, and counts those that aren't counted yet.
//!
//! A connection is born with its listener's tag. One that was born before there was a tag gets one here:
//! what waits in a listener's accept queue belongs to that listener, and of the others the loader says
//! whose each is. From 5.15 on the kernel holds the socket's lock while the iterator looks at it, so that
//! none is closed between the look at its state and the count.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, helpers::generated::bpf_seq_write,
    macros::btf_map,
};
use steer_common::{counters::Counters, slot::Tag};

use crate::{
    atomic, groups,
    iterator::Context,
    kernel::{self, offset},
    members, migration, tags,
};

const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// Socket cookie or kernel address to tag: numbers that begin with a zero, and with a one. The loader
/// makes it as large as need be.
#[btf_map]
static EARLIER: HashMap<u64, Tag, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[inline(always)]
pub(crate) fn run(ctx: *mut Context) {
    // SAFETY: the kernel calls the iterator with a valid context.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return;
    }
    match kernel::read::<u8>(socket as u64, offset!(sk_state)) {
        // The kernel lists all listeners first.
        Some(LISTEN) => note_queue(socket),
        Some(ESTABLISHED | SYN_RECV | CLOSE_WAIT) => {
            if let Some(tag) = counted(socket) {
                // SAFETY: as above.
                let seq = unsafe { Context::seq(ctx) };
                // SAFETY: the record is a value on the stack, of the size that is passed.
                unsafe {
                    bpf_seq_write(
                        seq,
                        (&raw const tag).cast_mut().cast(),
                        size_of::<Tag>() as u32,
                    )
                };
            }
        }
        _ => {}
    }
}

/// The tag of a connection that counts as open, by now.
#[inline(always)]
fn counted(socket: *const u8) -> Option<Tag> {
    // SAFETY: the iterator's own socket.
    let former = unsafe { tags::of(socket.cast_mut().cast()) };
    let cookie: u64 = kernel::read(socket as u64, offset!(sk_cookie)).unwrap_or(0);
    let Some((tag, counters)) = former.and_then(|tag| Some((tag, groups::counters(&tag)?))) else {
        // It never had a slot, or that is another's by now: this one has moved, or was steered once before.
        let moved = former.and_then(|_| migration::went(cookie));
        let moved = moved.filter(|tag| groups::counters(tag).is_some());
        return moved.or_else(|| tagged(socket, cookie));
    };
    // SAFETY: the iterator's own socket.
    if unsafe { tags::advance(socket.cast_mut().cast(), Tag::BORN) }.is_some() {
        count(counters);
    } else if !matches!(tag.stage, Tag::BORN | Tag::READ) {
        return None;
    }
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    let moved = unsafe { &raw const (*counters).moved };
    // SAFETY: within a map value, valid as long as the program runs.
    if unsafe { moved.read_volatile() } == 0 {
        return Some(tag);
    }
    Some(migration::went(cookie).unwrap_or(tag))
}

/// Tags a connection from before, and counts it.
#[inline(always)]
fn tagged(socket: *const u8, cookie: u64) -> Option<Tag> {
    if !members::is_on_port(socket as u64) {
        return None;
    }
    // SAFETY: nobody else changes the map while the iterator runs.
    let tag = match unsafe { EARLIER.get(socket as u64) } {
        Some(tag) => *tag,
        // SAFETY: as above.
        None => *unsafe { EARLIER.get(cookie) }?,
    };
    let counters = groups::counters(&tag)?;
    // SAFETY: the iterator's own socket.
    if !unsafe { tags::set(socket.cast_mut().cast(), tag) } {
        return None;
    }
    count(counters);
    if tag.stage == Tag::READ {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*counters).read }, 1);
    }
    // Nobody was selected for it: `track` compares the two.
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    let unselected = unsafe { &raw mut (*counters).unselected };
    atomic::add(unselected.cast(), 1);
    Some(tag)
}

#[inline(always)]
fn count(counters: *mut Counters) {
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    atomic::add(unsafe { &raw mut (*counters).connections }, 1);
}

/// Notes whose the connections are that wait in the accept queue of a listener of the port.
#[inline(always)]
fn note_queue(socket: *const u8) {
    if !members::is_on_port(socket as u64) {
        return;
    }
    // SAFETY: the iterator's own socket.
    let Some(tag) = (unsafe { tags::of(socket.cast_mut().cast()) }) else {
        return;
    };
    let first: u64 = kernel::read(socket as u64, offset!(accept_head)).unwrap_or(0);
    stretches(LONG_STRETCHES, first, |next| {
        note_long_stretch(next, tag.attachment, tag.group, tag.slot, tag.generation)
    });
}

/// How many connections of a queue are noted at once,
const STRETCH: u32 = 32;
/// how often they are in a long stretch,
const STRETCHES: u32 = 32;
/// and how many such there are: together more than a queue can be long.
const LONG_STRETCHES: u32 = 64;

/// Goes from one stretch of a queue to the next, until there is none.
#[inline(always)]
fn stretches(most: u32, first: u64, note: impl Fn(u64) -> u64) -> u64 {
    let mut next = first;
    for _ in 0..most {
        if next == 0 {
            break;
        }
        next = note(next);
    }
    next
}

/// Notes what begins with this request, and returns where the next stretch does. Functions that the
/// verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_long_stretch(
    first: u64,
    attachment: u32,
    group: u32,
    slot: u32,
    generation: u32,
) -> u64 {
    stretches(STRETCHES, first, |next| {
        note_stretch(next, attachment, group, slot, generation)
    })
}

/// The same for a part of that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_stretch(
    first: u64,
    attachment: u32,
    group: u32,
    slot: u32,
    generation: u32,
) -> u64 {
    let tag = Tag {
        attachment,
        group,
        slot,
        generation,
        stage: Tag::BORN,
    };
    stretches(STRETCH, first, |request| {
        let connection: u64 = kernel::read(request, offset!(request_sk)).unwrap_or(0);
        // The map has room for all that were there when the loader made it: others came later.
        if EARLIER.insert(connection, tag, 0).is_err() {
            return 0;
        }
        kernel::read(request, offset!(request_next)).unwrap_or(0)
    })
}
