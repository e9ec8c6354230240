//! The job that each worker's event loop has in hand, and how long those took that have ended.
//!
//! A job begins when the worker reads from a connection, and ends when the answer is sent: the kernel keeps that
//! time for every connection (`tcp_sock.first_tx_mstamp`, for the round trip's sake). So nothing is traced at the
//! end of a job: it is looked at when the worker reads for the next one, and when the connection closes. The
//! group learns from it at the former only, or the three programs that count ends would have all of that in them.
//!
//! What is answered while the loop was seen waiting teaches nothing: the worker did something else meanwhile, or
//! nothing. The same is true of what is not answered at all.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    programs::BtfTracePointContext,
};
use steer_common::{counters::Counters, slot::Tag};

use crate::{
    atomic, groups,
    kernel::{self, offset},
    learned, migration, tags,
};

/// A worker reads from a connection.
#[inline(always)]
pub(crate) fn run(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    // SAFETY: the tracepoint's own socket.
    let Some(tag) = (unsafe { tags::read(sk) }) else {
        return;
    };
    let Some((group, counters)) = server(sk, &tag) else {
        return;
    };
    if tag.stage == Tag::BORN {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*counters).read }, 1);
    }
    let job = Job(counters);
    let sock = job.sock();
    let before = job.get(offset_of!(Counters, ended));
    if before != 0 {
        job.set(offset_of!(Counters, ended), 0);
        learned::learn(group, before);
    }
    match job.answered(sock) {
        // More of the same request.
        None if sock == sk as u64 => return,
        None => {}
        Some(sent) => {
            let took = job.took(sent);
            if took != NOTHING_LEARNED {
                learned::learn(group, took);
            }
        }
    }
    job.begin(sk as u64);
}

/// What [`Job::took`] returns of a job that teaches nothing.
const NOTHING_LEARNED: u64 = 0;

/// [`Counters::job`] where the worker does something that isn't known to be a job.
pub(crate) const NONE: u64 = 0;

/// [`Counters::job`] where the connection was reset before it was answered, so that the worker goes on with
/// the job. No address.
const RESET: u64 = 1;

/// Who ends a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The worker, which closes it.
    Worker,
    /// The kernel, as the client has reset it or is gone.
    Kernel,
}

/// A connection has ended.
#[inline(always)]
pub(crate) fn closed(sk: *mut c_void, counters: *mut Counters, by: By) {
    let job = Job(counters);
    if job.sock() != sk as u64 {
        return;
    }
    let Some(sent) = job.answered(sk as u64) else {
        let next = if by == By::Kernel { RESET } else { NONE };
        return job.set(offset_of!(Counters, job), next);
    };
    job.set(offset_of!(Counters, ended), job.took(sent));
    // What it has done since it answered isn't known to be a job. It saves the clock, too.
    job.set(offset_of!(Counters, began_at), sent);
    job.set(offset_of!(Counters, job), NONE);
}

/// When the last data that a connection has sent were sent, as far as it is acknowledged, or where nothing is in
/// flight since: the first ones after. In nanoseconds of CLOCK_MONOTONIC, of which microseconds are known.
#[inline(always)]
pub(crate) fn answered_at(sock: u64) -> Option<u64> {
    let sent: u64 = kernel::read(sock, offset!(tcp_first_sent))?;
    Some(sent.wrapping_mul(1000))
}

/// The group and the counters of the worker that has a connection.
#[inline(always)]
fn server(sk: *mut c_void, tag: &Tag) -> Option<(u32, *mut Counters)> {
    let counters = groups::counters(tag)?;
    if !migration::any_moved(counters) {
        return Some((tag.group, counters));
    }
    // SAFETY: the tracepoint's own socket.
    match migration::went(unsafe { bpf_get_socket_cookie(sk) }) {
        Some(tag) => Some((tag.group, groups::counters(&tag)?)),
        None => Some((tag.group, counters)),
    }
}

/// What a worker has in hand.
#[derive(Clone, Copy)]
struct Job(*mut Counters);

impl Job {
    #[inline(always)]
    fn get(self, offset: usize) -> u64 {
        let field = self.0.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: within a map value, valid as long as the program runs; written by others meanwhile, hence
        // volatile.
        unsafe { field.read_volatile() }
    }

    #[inline(always)]
    fn set(self, offset: usize, value: u64) {
        let field = self.0.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: as above.
        unsafe { field.write_volatile(value) };
    }

    /// The connection that it is of.
    #[inline(always)]
    fn sock(self) -> u64 {
        self.get(offset_of!(Counters, job))
    }

    /// Begins with another one.
    #[inline(always)]
    fn begin(self, sock: u64) {
        // SAFETY: a helper without arguments.
        self.set(offset_of!(Counters, began_at), unsafe {
            bpf_ktime_get_ns()
        });
        self.set(offset_of!(Counters, job), sock);
    }

    /// When its connection was answered, if that was since it began.
    #[inline(always)]
    fn answered(self, sock: u64) -> Option<u64> {
        let began = self.get(offset_of!(Counters, began_at));
        answered_at(sock).filter(|sent| began != 0 && *sent > began)
    }

    /// How long it took, if it was answered then.
    #[inline(always)]
    fn took(self, sent: u64) -> u64 {
        let began = self.get(offset_of!(Counters, began_at));
        let waited = self.get(offset_of!(Counters, waited_at));
        if waited <= began || waited >= sent {
            sent - began
        } else {
            NOTHING_LEARNED
        }
    }
}
