//! Follows sockets: counts each worker's connections, reports listeners that come and go.

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
    registry::PortKey,
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
const IPPROTO_TCP: u32 = 6;
/// `sk_shutdown` of a socket that close() has begun with.
const SHUTDOWN_MASK: u8 = 3;

/// What a change of state means to steer.
enum Change {
    /// A child socket is born.
    Born,
    /// A connection ends.
    Closed(By),
    /// listen().
    Listens,
    /// A listener closes.
    Leaves,
    /// Nothing.
    Other,
}

#[inline(always)]
fn change(old: i32, new: i32) -> Change {
    match (old, new) {
        (LISTEN, SYN_RECV) => Change::Born,
        (LISTEN, _) => Change::Leaves,
        (_, LISTEN) => Change::Listens,
        // What the worker still has open: a half-closed connection counts until it closes it too.
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

/// The same for connections only, by another program.
///
/// From Linux 6.2 on the kernel leaves a tracing program out where it is running already on the same
/// processor, and an interrupt may bring a segment just while a process closes another connection. What a
/// process does itself is never missed, and where one program is interrupted the other one runs. The tag
/// tells whichever comes second that all is counted.
#[inline(always)]
pub(crate) fn run_again(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    match change(ctx.arg(1), ctx.arg(2)) {
        Change::Born => born(sk),
        Change::Closed(by) => closed(sk, by),
        Change::Listens | Change::Leaves | Change::Other => {}
    }
}

/// A socket is being destroyed: reports the close of a listener, counts an end that was missed, should
/// one ever be.
#[inline(always)]
pub(crate) fn run_destroyed(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    // SAFETY: the tracepoint's own socket.
    match unsafe { tags::of(sk) } {
        Some(tag) if tag.stage == Tag::CLOSING => report(sk, tag.attachment, EventKind::Close),
        _ => closed(sk, By::Kernel),
    }
}

#[inline(always)]
fn born(sk: *mut c_void) {
    // SAFETY: the tracepoint's own socket.
    let Some(tag) = (unsafe { tags::advance(sk, Tag::BORN) }) else {
        return;
    };
    let Some(counters) = groups::counters(&tag) else {
        return;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a pointer into a map, valid as long as the program runs.
    unsafe { (*counters).born_at = now };
    // SAFETY: as above, of which a field is taken by address only.
    atomic::add(unsafe { &raw mut (*counters).connections }, 1);
    if was_unselected(counters) {
        report(sk, tag.attachment, EventKind::Unselected);
    }
}

/// How many connections of a worker are born before they are compared with its selections.
const BATCH: u64 = 16;

/// Whether a worker's last connections were born without its having been selected for them: nothing
/// else tells that another program has taken the place of steer's.
///
/// Each birth has a selection before it, of a SYN, of an ACK with a cookie or of a migration, and not
/// every selection has a birth after it. So the difference never grows, but for connections that are
/// counted when steer attaches: then the loader looks in vain, once.
#[inline(always)]
fn was_unselected(counters: *mut Counters) -> bool {
    let read = |offset: usize| {
        let field = counters.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: a field of a map value, valid as long as the program runs.
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
    // SAFETY: as above.
    unsafe { (*counters).unselected = unselected };
    grown > 0
}

#[inline(always)]
fn closed(sk: *mut c_void, by: By) {
    // SAFETY: the tracepoint's own socket.
    let Some(tag) = (unsafe { tags::advance(sk, Tag::ENDED) }) else {
        return;
    };
    let born_at = groups::counters(&tag);
    if let Some(counters) = born_at
        && tag.stage == Tag::UNCOUNTED
    {
        // Its birth was missed.
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*counters).connections }, 1);
    }
    let ends_at = match born_at {
        Some(counters) if !migration::any_moved(counters) => Some(counters),
        _ => {
            // SAFETY: as above.
            match migration::take(unsafe { bpf_get_socket_cookie(sk) }) {
                Some(tag) => groups::counters(&tag),
                None => born_at,
            }
        }
    };
    if let Some(counters) = ends_at {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*counters).closed }, 1);
        if tag.stage < Tag::READ {
            // SAFETY: as above.
            atomic::add(unsafe { &raw mut (*counters).read }, 1);
        }
        jobs::closed(sk, counters, by);
    }
}

#[inline(always)]
fn joined(sk: *mut c_void) {
    // A listener that was shut down listens again: its connections count as before, until the loader has
    // given it a slot anew.
    // SAFETY: the tracepoint's own socket.
    unsafe { tags::listens(sk) };
    if let Some(attachment) = attachment_of(sk) {
        attachments::count_join(attachment);
        report(sk, attachment, EventKind::Listen);
    }
}

/// A listener closes.
///
/// The kernel stores its new state only after this. A connection that is established in between is
/// born with the `sk_shutdown` of its listener, and the kernel closes it at once. So nothing may take
/// long here, and a report would: it wakes the loader, which may get this processor. Where close() is
/// what ends it, the report waits until the socket is destroyed, which close() does next.
#[inline(always)]
fn left(sk: *mut c_void) {
    let closing = kernel::read(sk as u64, offset!(sk_shutdown)) == Some(SHUTDOWN_MASK);
    let stage = if closing { Tag::CLOSING } else { Tag::ENDED };
    // SAFETY: the tracepoint's own socket.
    let tag = unsafe { tags::advance(sk, stage) };
    if let Some(tag) = tag {
        if let Some(counters) = groups::counters(&tag) {
            // From now on nobody selects it, though its slot is emptied a little later.
            // SAFETY: a pointer into a map, valid as long as the program runs.
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
        // SAFETY: the tracepoint's own socket.
        cookie: unsafe { bpf_get_socket_cookie(sk) },
        // SAFETY: a helper without arguments.
        time: unsafe { bpf_ktime_get_ns() },
        kind: kind as u32,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
    };
    events::send(attachment, &event);
}
