//! Lists the open connections of the workers by their tags, and counts those that aren't counted
//! yet.
//!
//! A connection is born with its listener's tag. A connection that was born before its listener
//! had a tag gets one here. If it waits in a listener's accept queue, it belongs to that listener.
//! For all others the loader says whose each of them is.
//!
//! From Linux 5.15 on the kernel holds the socket's lock while the iterator looks at the socket.
//! So no connection is closed between the look at its state and the count.

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

/// Socket cookie or kernel address of a connection to its tag. The top bit of a cookie is 0, and
/// that of a kernel address is 1, so no cookie is an address. The loader makes the map as large as
/// need be.
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
                // SAFETY: `ctx` is the pointer that the iterator was called with.
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

/// The tag of a connection that counts as open. If the connection wasn't counted yet, it is now.
/// None if the connection is no worker's.
#[inline(always)]
fn counted(socket: *const u8) -> Option<Tag> {
    // SAFETY: `socket` is the socket that the iterator was called with.
    let former = unsafe { tags::of(socket.cast_mut().cast()) };
    let cookie: u64 = kernel::read(socket as u64, offset!(sk_cookie)).unwrap_or(0);
    let Some((tag, counters)) = former.and_then(|tag| Some((tag, groups::counters(&tag)?))) else {
        // The connection has no tag, or another worker has the slot of its tag by now. In the
        // latter case the connection has migrated, or was steered by an earlier steer.
        let moved = former.and_then(|_| migration::went(cookie));
        let moved = moved.filter(|tag| groups::counters(tag).is_some());
        return moved.or_else(|| tagged(socket, cookie));
    };
    // SAFETY: `socket` is the socket that the iterator was called with.
    if unsafe { tags::advance(socket.cast_mut().cast(), Tag::BORN) }.is_some() {
        count(counters);
    } else if !matches!(tag.stage, Tag::BORN | Tag::READ) {
        return None;
    }
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    let moved = unsafe { &raw const (*counters).moved };
    // SAFETY: `moved` is an aligned field of a map value, which is valid as long as the program
    // runs. Others change it meanwhile, hence volatile.
    if unsafe { moved.read_volatile() } == 0 {
        return Some(tag);
    }
    Some(migration::went(cookie).unwrap_or(tag))
}

/// Tags a connection that is older than the tag of its listener, and counts it. None if the loader
/// doesn't know whose it is.
#[inline(always)]
fn tagged(socket: *const u8, cookie: u64) -> Option<Tag> {
    if !members::is_on_port(socket as u64) {
        return None;
    }
    // SAFETY: nobody else changes the map while the iterator runs.
    let tag = match unsafe { EARLIER.get(socket as u64) } {
        Some(tag) => *tag,
        // SAFETY: nobody else changes the map while the iterator runs.
        None => *unsafe { EARLIER.get(cookie) }?,
    };
    let counters = groups::counters(&tag)?;
    // SAFETY: `socket` is the socket that the iterator was called with.
    if !unsafe { tags::set(socket.cast_mut().cast(), tag) } {
        return None;
    }
    count(counters);
    if tag.stage == Tag::READ {
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
        atomic::add(unsafe { &raw mut (*counters).read }, 1);
    }
    // No selection preceded this connection, and `track` compares births with selections. So
    // `unselected` grows with the birth.
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    let unselected = unsafe { &raw mut (*counters).unselected };
    atomic::add(unselected.cast(), 1);
    Some(tag)
}

#[inline(always)]
fn count(counters: *mut Counters) {
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    atomic::add(unsafe { &raw mut (*counters).connections }, 1);
}

/// Notes the connections that wait in the accept queue of a listener of the port: they are that
/// listener's.
#[inline(always)]
fn note_queue(socket: *const u8) {
    if !members::is_on_port(socket as u64) {
        return;
    }
    // SAFETY: `socket` is the socket that the iterator was called with.
    let Some(tag) = (unsafe { tags::of(socket.cast_mut().cast()) }) else {
        return;
    };
    let first: u64 = kernel::read(socket as u64, offset!(accept_head)).unwrap_or(0);
    stretches(LONG_STRETCHES, first, |next| {
        note_long_stretch(next, tag.attachment, tag.group, tag.slot, tag.generation)
    });
}

/// How many connections of a queue one stretch has.
const STRETCH: u32 = 32;
/// How many stretches a long stretch has.
const STRETCHES: u32 = 32;
/// How many long stretches are gone through. Together they are longer than a queue can be.
const LONG_STRETCHES: u32 = 64;

/// Goes from one stretch of a queue to the next, until there is none or until `most` are done.
/// Returns the request with which the next stretch begins, or 0.
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

/// Notes the long stretch that begins with this request, and returns the request with which the
/// next one begins, or 0. The verifier looks at this function once.
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

/// Notes the stretch that begins with this request, and returns the request with which the next
/// one begins, or 0. The verifier looks at this function once.
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
        // The map has room for all connections that there were when the loader made it. If it is
        // full, the connections from here on came later.
        if EARLIER.insert(connection, tag, 0).is_err() {
            return 0;
        }
        kernel::read(request, offset!(request_next)).unwrap_or(0)
    })
}
