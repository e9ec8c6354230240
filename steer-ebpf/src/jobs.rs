//! The job that each worker's event loop has in hand, and how long jobs took that have ended.
//!
//! A job begins when the worker reads from a connection, and ends when the worker sends the
//! answer. To measure rates, the kernel keeps for every connection when it sent the data that were
//! acknowledged last, or the first data in flight (`tcp_sock.first_tx_mstamp`). So nothing is
//! traced at the end of a job. The program looks that time up when the worker reads for its next
//! job, and when the connection closes. The group learns from the job only when the worker reads.
//! Otherwise each of the three programs that count ends would have all the code that learns in it.
//!
//! If the loop was seen waiting before a job was answered, the job teaches nothing: the worker did
//! something else meanwhile, or nothing. A job that is not answered at all teaches nothing either.

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

/// A worker reads from a connection. The program was called with its socket.
#[inline(always)]
pub(crate) fn run(ctx: &BtfTracePointContext) {
    let sk: *mut c_void = ctx.arg(0);
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    let Some(tag) = (unsafe { tags::read(sk) }) else {
        return;
    };
    let Some((group, counters)) = server(sk, &tag) else {
        return;
    };
    if tag.stage == Tag::BORN {
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
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
        // The worker reads more of the same request.
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

/// [`Job::took`] returns this for a job that teaches nothing.
const NOTHING_LEARNED: u64 = 0;

/// [`Counters::job`] if the worker does something that isn't known to be a job.
pub(crate) const NONE: u64 = 0;

/// [`Counters::job`] if the connection was reset before it was answered: the worker goes on with
/// the job. No kernel address has this value.
const RESET: u64 = 1;

/// Who ends a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The worker closes the connection.
    Worker,
    /// The kernel ends the connection, because the client has reset it or is gone.
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
    // What the worker has done since it answered isn't known to be a job. The time of the answer
    // is at hand, so the clock needn't be read.
    job.set(offset_of!(Counters, began_at), sent);
    job.set(offset_of!(Counters, job), NONE);
}

/// When the data that were acknowledged last were sent or, if nothing is in flight since, when the
/// first data after those were sent. In nanoseconds of CLOCK_MONOTONIC, to the microsecond. None
/// if this kernel doesn't tell.
#[inline(always)]
pub(crate) fn answered_at(sock: u64) -> Option<u64> {
    let sent: u64 = kernel::read(sock, offset!(tcp_first_sent))?;
    Some(sent.wrapping_mul(1000))
}

/// The group and the counters of the worker that has a connection: the worker of the connection's
/// tag or, if the connection migrated, the worker that it migrated to.
#[inline(always)]
fn server(sk: *mut c_void, tag: &Tag) -> Option<(u32, *mut Counters)> {
    let counters = groups::counters(tag)?;
    if !migration::any_moved(counters) {
        return Some((tag.group, counters));
    }
    // SAFETY: `sk` is the socket that the tracepoint was called with.
    match migration::went(unsafe { bpf_get_socket_cookie(sk) }) {
        Some(tag) => Some((tag.group, groups::counters(&tag)?)),
        None => Some((tag.group, counters)),
    }
}

/// The job that a worker has in hand, as the worker's counters have it.
#[derive(Clone, Copy)]
struct Job(*mut Counters);

impl Job {
    #[inline(always)]
    fn get(self, offset: usize) -> u64 {
        let field = self.0.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: the field is aligned, and within a map value that is valid as long as the
        // program runs. Others write it meanwhile, hence volatile.
        unsafe { field.read_volatile() }
    }

    #[inline(always)]
    fn set(self, offset: usize, value: u64) {
        let field = self.0.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: the field is aligned, and within a map value that is valid as long as the
        // program runs. Of two processors that write at once, either may win.
        unsafe { field.write_volatile(value) };
    }

    /// Kernel address of the connection that the job is of, [`NONE`] or [`RESET`].
    #[inline(always)]
    fn sock(self) -> u64 {
        self.get(offset_of!(Counters, job))
    }

    /// The worker begins with a job of this connection now.
    #[inline(always)]
    fn begin(self, sock: u64) {
        // SAFETY: the helper has no arguments and can't fail.
        self.set(offset_of!(Counters, began_at), unsafe {
            bpf_ktime_get_ns()
        });
        self.set(offset_of!(Counters, job), sock);
    }

    /// When the job's connection was answered, if that was after the job began.
    #[inline(always)]
    fn answered(self, sock: u64) -> Option<u64> {
        let began = self.get(offset_of!(Counters, began_at));
        answered_at(sock).filter(|sent| began != 0 && *sent > began)
    }

    /// How long the job took if it was answered at `sent`, in nanoseconds. [`NOTHING_LEARNED`] if
    /// the loop was seen waiting in between.
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
