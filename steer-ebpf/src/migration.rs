//! Connections that the kernel moves away from a listener that closes.
//!
//! A connection that waits to be accepted was born with the tag of the listener that closes, and a
//! program of this kind can't change a tag. So the program writes down, by the connection's
//! cookie, where the connection went, and the tracker looks that up when the connection closes. A
//! handshake needs none of this: its connection will be born on the listener that it was moved to.

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

/// Socket cookie of a connection to the tag of the slot that the connection was moved to.
#[btf_map]
static MOVED: HashMap<u64, Tag, { MAX_MOVED as usize }> = HashMap::new();

/// Counts a connection that is about to be moved to a slot for that slot, and no longer for the
/// slot of the listener that closes.
#[inline(always)]
pub(crate) fn count(
    ctx: &SkReuseportContext,
    migrating: &SockContext,
    group: &Group<'_>,
    slot: u32,
) {
    // SAFETY: the kernel gives the program a valid socket, and lets programs read this field of
    // any socket.
    let state = unsafe { (*migrating.sock).state };
    // In any other state it is a handshake, or a connection that was reset while it waited. The
    // end of such a connection is counted already.
    if !matches!(state, ESTABLISHED | SYN_RECV | CLOSE_WAIT) {
        return;
    }
    let (Some(to), Some(entry)) = (slots::counters(slot), slots::slot(slot)) else {
        return;
    };
    let sk = ctx.sk();
    // SAFETY: the socket of the context is the listener that closes, and valid.
    let from = unsafe { bpf_get_socket_cookie(sk.as_ptr()) };
    let Some(from) = known::slot(from).and_then(slots::counters) else {
        return;
    };
    // SAFETY: the migrating socket of the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(migrating.as_ptr()) };
    let tag = Tag {
        attachment: attachments::own(),
        group: group.config.group,
        slot,
        generation: entry.generation,
        stage: Tag::BORN,
    };
    // If the map is full, the connection goes on counting where it was born.
    if MOVED.insert(cookie, tag, 0).is_err() {
        return;
    }
    // `moved` grows before `closed` does. Else the tracker might not look up where the connection
    // went.
    // SAFETY: `from` points to a map value, and only the address of a field is taken.
    atomic::add(unsafe { &raw mut (*from).moved }, 1);
    // SAFETY: as for `moved`, the address of another field of the same value.
    atomic::add(unsafe { &raw mut (*from).closed }, 1);
    // SAFETY: as for `moved`, the address of another field of the same value.
    atomic::add(unsafe { &raw mut (*from).read }, 1);
    // SAFETY: `to` points to a map value, and only the address of a field is taken.
    atomic::add(unsafe { &raw mut (*to).connections }, 1);
    // The worker has had no time yet to accept the connection.
    // SAFETY: the helper has no arguments and can't fail.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: `to` points to a map value, which is valid as long as the program runs.
    unsafe { (*to).born_at = now };
}

/// Whether a connection ever migrated away from a slot.
#[inline(always)]
pub(crate) fn any_moved(counters: *const Counters) -> bool {
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    let moved = unsafe { &raw const (*counters).moved };
    // SAFETY: `moved` is an aligned field of a map value, which is valid as long as the program
    // runs. Others change it meanwhile, hence volatile.
    let moved = unsafe { moved.read_volatile() };
    moved != 0
}

/// The tag of the slot that a connection was moved to. None if it wasn't moved.
#[inline(always)]
pub(crate) fn went(cookie: u64) -> Option<Tag> {
    // SAFETY: an entry is changed only while its connection migrates.
    unsafe { MOVED.get(cookie) }.copied()
}

/// The tag of the slot that a connection was moved to, for a connection that closes. None if it
/// wasn't moved. The entry is removed, so this answers once.
#[inline(always)]
pub(crate) fn take(cookie: u64) -> Option<Tag> {
    let tag = went(cookie)?;
    // Nothing else removes the entry, so this can't fail.
    let _ = MOVED.remove(cookie);
    Some(tag)
}
