//! Connections that the kernel moves away from a listener that closes.
//!
//! A connection that waits to be accepted was born with the tag of the listener that closes, and a
//! program of this kind can't change that. So where it went is written down by its cookie, and the
//! tracker asks for it when the connection closes. A handshake needs none of this: its connection
//! will be born on the listener that it was moved to.

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::HashMap,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    macros::btf_map,
    programs::{SkReuseportContext, SockContext},
};
use steer_common::{counters::Counters, limits::MAX_MOVED, slot::Tag};

use crate::{atomic, attachments, group::Group, known, slots};

const ESTABLISHED: u32 = 1;
const SYN_RECV: u32 = 3;
const CLOSE_WAIT: u32 = 8;

/// Socket cookie of a connection to the tag of the slot that it was moved to.
#[btf_map]
static MOVED: HashMap<u64, Tag, { MAX_MOVED as usize }> = HashMap::new();

/// Counts a connection that is about to be moved to a slot for that slot.
#[inline(always)]
pub(crate) fn count(
    ctx: &SkReuseportContext,
    migrating: &SockContext,
    group: &Group<'_>,
    slot: u32,
) {
    // SAFETY: the kernel gives a valid socket, and lets programs read this field of any.
    let state = unsafe { (*migrating.sock).state };
    // The others are handshakes, and connections that were reset while they waited: their end is
    // counted.
    if !matches!(state, ESTABLISHED | SYN_RECV | CLOSE_WAIT) {
        return;
    }
    let (Some(to), Some(entry)) = (slots::counters(slot), slots::slot(slot)) else {
        return;
    };
    let sk = ctx.sk();
    // SAFETY: the listener that closes, by the context's contract.
    let from = unsafe { bpf_get_socket_cookie(sk.as_ptr()) };
    let Some(from) = known::slot(from).and_then(slots::counters) else {
        return;
    };
    // SAFETY: the migrating socket, likewise.
    let cookie = unsafe { bpf_get_socket_cookie(migrating.as_ptr()) };
    let tag = Tag {
        attachment: attachments::own(),
        group: group.config.group,
        slot,
        generation: entry.generation,
        stage: Tag::BORN,
    };
    // Where the map is full the connection goes on counting where it was born.
    if MOVED.insert(cookie, tag, 0).is_err() {
        return;
    }
    // Before it counts as closed there, or the tracker might not ask where it went.
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    atomic::add(unsafe { &raw mut (*from).moved }, 1);
    // SAFETY: as above.
    atomic::add(unsafe { &raw mut (*from).closed }, 1);
    // SAFETY: as above.
    atomic::add(unsafe { &raw mut (*from).read }, 1);
    // SAFETY: as above.
    atomic::add(unsafe { &raw mut (*to).connections }, 1);
    // It has had no time to accept it yet.
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a pointer into a map, valid as long as the program runs.
    unsafe { (*to).born_at = now };
}

/// Whether a connection ever migrated away from a slot.
#[inline(always)]
pub(crate) fn any_moved(counters: *const Counters) -> bool {
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    let moved = unsafe { &raw const (*counters).moved };
    // SAFETY: within a map value, valid as long as the program runs.
    let moved = unsafe { moved.read_volatile() };
    moved != 0
}

/// Where a connection was moved to, if it was.
#[inline(always)]
pub(crate) fn went(cookie: u64) -> Option<Tag> {
    // SAFETY: an entry is changed only while its connection migrates.
    unsafe { MOVED.get(cookie) }.copied()
}

/// Where a connection that closes was moved to, if it was. It is asked for once.
#[inline(always)]
pub(crate) fn take(cookie: u64) -> Option<Tag> {
    let tag = went(cookie)?;
    // Nothing else removes it.
    let _ = MOVED.remove(cookie);
    Some(tag)
}
