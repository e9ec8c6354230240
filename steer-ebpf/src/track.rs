//! Follows sockets: counts each worker's connections, and reports listeners that come and go.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    },
    programs::BtfTracePointContext,
};
use steer_common::{
    counters::Counters,
    event::{Event, EventKind},
    registry::{IPPROTO_TCP, PortKey},
    slot::Tag,
};

use crate::{
    atomic, attachments, events, groups,
    jobs::{self, By},
    kernel::{self, offset},
    migration, tags,
};

const ESTABLISHED: i32 = 1;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;
const CLOSE_WAIT: i32 = 8;
const LISTEN: i32 = 10;
/// `sk_shutdown` of a socket on which close() has begun.
const SHUTDOWN_MASK: u8 = 3;

/// What a change of state means to steer.
enum Change {
    /// A child socket is born.
    Born,
    /// A connection ends.
    Closed(By),
    /// listen() makes the socket a listener.
    Listens,
    /// A listener closes.
    Leaves,
    /// The change means nothing.
    Other,
}

#[inline(always)]
fn change(old: i32, new: i32) -> Change {
    match (old, new) {
        (LISTEN, SYN_RECV) => Change::Born,
        (LISTEN, _) => Change::Leaves,
        (_, LISTEN) => Change::Listens,
        // The worker still has the connection open: a half-closed connection counts until the
        // worker closes it, too.
        (SYN_RECV | ESTABLISHED | CLOSE_WAIT, SYN_RECV | ESTABLISHED | CLOSE_WAIT) => Change::Other,
        (SYN_RECV | ESTABLISHED | CLOSE_WAIT, CLOSE) => Change::Closed(By::Kernel),
        (SYN_RECV | ESTABLISHED | CLOSE_WAIT, _) => Change::Closed(By::Worker),
        _ => Change::Other,
    }
}

#[inline(always)]
pub(crate) fn run(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    match change(ctx.arg(1), ctx.arg(2)) {
        Change::Born => born(sk),
        Change::Closed(by) => closed(sk, by),
        Change::Listens => joined(sk),
        Change::Leaves => left(sk),
        Change::Other => {}
    }
}

/// Counts as [`run`] does, for connections only, in another program.
///
/// From Linux 6.2 on the kernel leaves a tracing program out if the program is running already on
/// the same processor. An interrupt may bring a segment just while a process closes another
/// connection. What a process does itself is never missed. If one program is interrupted, the
/// other one runs for the interrupt. The tag tells whichever comes second that all is counted.
#[inline(always)]
pub(crate) fn run_again(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    match change(ctx.arg(1), ctx.arg(2)) {
        Change::Born => born(sk),
        Change::Closed(by) => closed(sk, by),
        Change::Listens | Change::Leaves | Change::Other => {}
    }
}

/// The kernel destroys a socket. Reports the close if the socket is a listener. If the end of a
/// connection was missed, counts the end.
#[inline(always)]
pub(crate) fn run_destroyed(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    match unsafe { tags::of(sk) } {
        Some(tag) if tag.stage == Tag::CLOSING => report(sk, tag.attachment, EventKind::Close),
        _ => closed(sk, By::Kernel),
    }
}

#[inline(always)]
fn born(sk: *mut c_void) {
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    let Some(tag) = (unsafe { tags::advance(sk, Tag::BORN) }) else {
        return;
    };
    let Some(counters) = groups::counters(&tag) else {
        return;
    };
    // SAFETY: the helper has no arguments and can't fail.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: `counters` points to a value of a group's counters, which is valid as long as the
    // program runs.
    unsafe { (*counters).born_at = now };
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    atomic::add(unsafe { &raw mut (*counters).connections }, 1);
    if was_unselected(counters) {
        report(sk, tag.attachment, EventKind::Unselected);
    }
}

/// How many connections of a worker are born from one comparison with the worker's selections to
/// the next.
const BATCH: u64 = 16;

/// Whether the worker was not selected for its last connections. Nothing else tells that another
/// program has taken the place of steer's.
///
/// Each birth has a selection before it: of a SYN, of an ACK with a cookie or of a migration. Not
/// every selection has a birth after it. So the difference of births and selections never grows.
/// The one exception are connections that are counted when steer attaches: then the loader looks
/// in vain, once.
#[inline(always)]
fn was_unselected(counters: *mut Counters) -> bool {
    let read = |offset: usize| {
        let field = counters.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: the field is aligned, and within a map value that is valid as long as the
        // program runs. Others change it meanwhile, hence volatile.
        unsafe { field.read_volatile() }
    };
    let connections = read(core::mem::offset_of!(Counters, connections));
    if connections % BATCH != 0 {
        return false;
    }
    let chosen = read(core::mem::offset_of!(Counters, selected))
        .wrapping_add(read(core::mem::offset_of!(Counters, cookie_acks)))
        .wrapping_add(read(core::mem::offset_of!(Counters, migrated)));
    let unselected = connections.wrapping_sub(chosen).cast_signed();
    let least = read(core::mem::offset_of!(Counters, unselected)).cast_signed();
    let grown = unselected.wrapping_sub(least);
    if grown > 0 && grown < BATCH.cast_signed() {
        return false;
    }
    // SAFETY: `counters` points to a map value, which is valid as long as the program runs.
    unsafe { (*counters).unselected = unselected };
    grown > 0
}

#[inline(always)]
fn closed(sk: *mut c_void, by: By) {
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    let Some(tag) = (unsafe { tags::advance(sk, Tag::ENDED) }) else {
        return;
    };
    let born_at = groups::counters(&tag);
    if let Some(counters) = born_at
        && tag.stage == Tag::UNCOUNTED
    {
        // The birth of this connection was missed.
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
        atomic::add(unsafe { &raw mut (*counters).connections }, 1);
    }
    let ends_at = match born_at {
        Some(counters) if !migration::any_moved(counters) => Some(counters),
        _ => {
            // SAFETY: `sk` is the socket that the tracepoint was called with.
            match migration::take(unsafe { bpf_get_socket_cookie(sk) }) {
                Some(tag) => groups::counters(&tag),
                None => born_at,
            }
        }
    };
    if let Some(counters) = ends_at {
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
        atomic::add(unsafe { &raw mut (*counters).closed }, 1);
        if tag.stage < Tag::READ {
            // SAFETY: as for `closed`, the address of another field of the same value.
            atomic::add(unsafe { &raw mut (*counters).read }, 1);
        }
        jobs::closed(sk, counters, by);
    }
}

#[inline(always)]
fn joined(sk: *mut c_void) {
    // A listener that was shut down may listen again. Its new connections count for its former
    // slot until the loader has given the listener a new slot.
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    unsafe { tags::listens(sk) };
    if let Some(attachment) = attachment_of(sk) {
        attachments::count_join(attachment);
        report(sk, attachment, EventKind::Listen);
    }
}

/// A listener closes.
///
/// The kernel stores the listener's new state only after this. A connection that is established in
/// between is born with the `sk_shutdown` of its listener, and the kernel closes the connection at
/// once. So nothing may take long here. A report would take long: it wakes the loader, and the
/// loader may get this processor. If close() is what ends the listener, the report waits until the
/// kernel destroys the socket, which close() does next.
#[inline(always)]
fn left(sk: *mut c_void) {
    let closing = kernel::read(sk as u64, offset!(sk_shutdown)) == Some(SHUTDOWN_MASK);
    let stage = if closing { Tag::CLOSING } else { Tag::ENDED };
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    let tag = unsafe { tags::advance(sk, stage) };
    if let Some(tag) = tag {
        if let Some(counters) = groups::counters(&tag) {
            // From now on nobody selects the slot, though the kernel empties it in the socket map
            // a little later.
            // SAFETY: `counters` points to a map value, which is valid as long as the program
            // runs.
            unsafe { (*counters).gone = tag.generation };
        }
        if !closing {
            report(sk, tag.attachment, EventKind::Close);
        }
    } else if let Some(attachment) = attachment_of(sk) {
        report(sk, attachment, EventKind::Close);
    }
}

#[inline(always)]
fn attachment_of(sk: *mut c_void) -> Option<u32> {
    let net: u64 = kernel::read(sk as u64, offset!(sk_net))?;
    let port: u16 = kernel::read(sk as u64, offset!(sk_num))?;
    attachments::of_port(&PortKey {
        netns_cookie: kernel::read(net, offset!(net_cookie))?,
        port: u32::from(port),
        protocol: IPPROTO_TCP,
    })
}

#[inline(always)]
fn report(sk: *mut c_void, attachment: u32, kind: EventKind) {
    let event = Event {
        sock: sk as u64,
        // SAFETY: `sk` is the socket that the tracepoint was called with.
        cookie: unsafe { bpf_get_socket_cookie(sk) },
        // SAFETY: the helper has no arguments and can't fail.
        time: unsafe { bpf_ktime_get_ns() },
        kind: kind as u32,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
    };
    events::send(attachment, &event);
}
