//! What a policy sees of a group.

/// Which packet wants a listener. Each kind has a cursor of its own, so that none moves another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Arrival {
    /// A SYN: a new connection.
    Syn = 0,
    /// An ACK without a request socket: a connection under SYN cookies, or a stray segment.
    Ack = 1,
    /// A connection that the kernel moves away from a closing listener.
    Migration = 2,
}

impl Arrival {
    /// The kind of a number, of which any unknown one is the last.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Syn,
            1 => Self::Ack,
            _ => Self::Migration,
        }
    }
}

/// A worker that may be selected.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// What one connection adds to its load: [`crate::slot::inverse_weight`].
    pub inverse_weight: u32,
    /// Connections that it has not closed.
    pub active: u32,
    /// Where the view finds the worker's expensive signals; its own affair.
    pub handle: Handle,
}

/// What a view needs to find a worker's expensive signals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handle {
    /// The slot.
    pub slot: u32,
    /// Kernel address of the listener, 0 where it isn't known.
    pub sock: u64,
    /// Kernel address of where the worker's event loop waits, 0 where it isn't known.
    pub waiters: u64,
}

/// Nanoseconds within which the first request of a connection comes, as a rule: what a worker and a
/// client take to be scheduled, the round trip before is over by then.
pub const YOUNG: u64 = 1 << 22;

/// What a worker's event loop does at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// It waits, and will until somebody sends something.
    Waiting,
    /// It is busy with something that isn't known to be a job, for a moment only: it accepts, or has just answered.
    Between,
    /// It is busy, with a job that has this age in nanoseconds.
    Busy(u64),
    /// Nothing tells: no known event loop, or one that several threads share.
    Unknown,
}

/// The state of a group at the moment of one selection.
///
/// The kernel programs, the tests and a simulator implement it; the policies are the same for all.
/// Which workers may be selected at all (draining, ejected, standby) is the view's affair, once
/// for every policy: it shows no others.
pub trait View {
    /// All ones below a power of two that no slot in use reaches; less than
    /// [`crate::limits::MAX_SLOTS`].
    fn slot_mask(&self) -> u32;

    /// The worker of a slot, where it may be selected. Cheap.
    fn worker(&self, slot: u32) -> Option<Worker>;

    /// Handshakes in flight on the worker's listener. Expensive: asked for finalists only.
    fn handshakes(&self, worker: &Worker) -> u32;

    /// What the worker's event loop does. Expensive: asked for finalists only.
    fn event_loop(&self, worker: &Worker) -> Loop;

    /// Connections that the worker has not read from yet and that are about to bring a request, accepted or
    /// not. Cheap; asked for after the event loop.
    fn fresh(&self, worker: &Worker) -> u32;

    /// Connections that the worker has read from before and on which another request waits, as far as that can
    /// be seen; no more than `most` are looked for. The most expensive one: asked for busy finalists that could
    /// win still.
    fn ready(&self, worker: &Worker, most: u32) -> u32;

    /// How long a job of the group takes in the mean, in nanoseconds: [`crate::learn::mean`].
    fn mean(&self) -> u64;

    /// How long a job of this age will still take, in nanoseconds: [`crate::learn::rest`].
    fn rest(&self, age: u64) -> u64;

    /// Moves the cursor of this arrival's kind and returns where it stood.
    fn ticket(&self) -> u64;

    /// The slot whose turn the ticket is, in proportion to the weights; `None` where no worker is
    /// live. The slot may be one whose worker can't be selected any more.
    fn turn(&self, ticket: u64) -> Option<u32>;

    /// By how much the turns of ties are shifted: another number after each selection that was found to
    /// have come to nothing.
    fn shift(&self) -> u64 {
        0
    }

    /// A random number.
    fn random(&self) -> u32;

    /// The kernel's hash of the connection's addresses and ports.
    fn flow(&self) -> u32;

    /// A hash of the client's address, or of the part of it that sticks.
    fn client(&self) -> u32;

    /// What identifies the worker of a slot across restarts of the others: stays as long as it.
    fn identity(&self, worker: &Worker) -> u32 {
        worker.handle.slot
    }
}
