//! What a policy sees of a group.

/// The kind of packet for which a listener is needed. Each kind has a cursor of its own, so that
/// no kind moves another's cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Arrival {
    /// A SYN: a new connection.
    Syn = 0,
    /// An ACK without a request socket: a connection under SYN cookies, or a stray segment.
    Ack = 1,
    /// A connection or handshake that the kernel moves away from a closing listener.
    Migration = 2,
}

impl Arrival {
    /// The kind with this number. An unknown number is taken for [`Arrival::Migration`].
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
    /// What one connection adds to the worker's load: [`crate::slot::inverse_weight`].
    pub inverse_weight: u32,
    /// How many connections the worker has not closed.
    pub active: u32,
    /// Where the view finds the worker's expensive signals. Only the view uses this.
    pub handle: Handle,
}

/// What a view needs to find a worker's expensive signals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handle {
    /// The slot.
    pub slot: u32,
    /// Kernel address of the listener; 0 if it isn't known.
    pub sock: u64,
    /// Kernel address of the wait queue of the worker's event loop; 0 if it isn't known.
    pub waiters: u64,
}

/// Within this many nanoseconds of its birth a connection brings its first request, as a rule.
/// That is how long a worker and a client take to be scheduled. The round trip is over at the
/// birth.
pub const YOUNG: u64 = 1 << 22;

/// What a worker's event loop does at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The loop waits, until somebody sends something.
    Waiting,
    /// The loop is busy with something that isn't known to be a job, for a moment only: the worker
    /// accepts, or has just answered.
    Between,
    /// The loop is busy with a job that has this age in nanoseconds.
    Busy(u64),
    /// Nothing is known: the worker has no known event loop, or one that several threads share.
    Unknown,
}

/// The state of a group at the moment of one selection.
///
/// The kernel programs, the tests and a simulator implement it. The policies are the same for all
/// of them. The view decides which workers may be selected at all (draining, ejected, standby),
/// once for every policy: it shows no others.
pub trait View {
    /// One less than a power of two that is larger than any slot in use. It is less than
    /// [`crate::limits::MAX_SLOTS`].
    fn slot_mask(&self) -> u32;

    /// The worker of a slot. None if it may not be selected. Cheap.
    fn worker(&self, slot: u32) -> Option<Worker>;

    /// How many handshakes are in flight on the worker's listener. Expensive: asked for finalists
    /// only.
    fn handshakes(&self, worker: &Worker) -> u32;

    /// What the worker's event loop does. Expensive: asked for finalists only.
    fn event_loop(&self, worker: &Worker) -> Loop;

    /// How many connections, accepted or not, the worker has not read from yet and are about to
    /// bring a request. Cheap; asked for after the event loop.
    fn fresh(&self, worker: &Worker) -> u32;

    /// How many of the connections that the worker has read from before have another request that
    /// waits, as far as that can be seen. No more than `most` are looked for. The most expensive
    /// signal: asked for busy finalists that could still win.
    fn ready(&self, worker: &Worker, most: u32) -> u32;

    /// The mean duration of the group's jobs, in nanoseconds: [`crate::learn::mean`].
    fn mean(&self) -> u64;

    /// How long a job of this age in nanoseconds will still take, in nanoseconds:
    /// [`crate::learn::rest`].
    fn rest(&self, age: u64) -> u64;

    /// Takes a ticket: moves the cursor of this arrival's kind, and returns where the cursor
    /// stood.
    fn ticket(&self) -> u64;

    /// The slot whose turn the ticket is, in proportion to the weights. `None` if no worker is
    /// live. The worker of the slot may be one that can't be selected any more.
    fn turn(&self, ticket: u64) -> Option<u32>;

    /// By how much the turns of ties are shifted. After each selection that was found to have come
    /// to nothing, this is another number.
    fn shift(&self) -> u64 {
        0
    }

    /// A random number.
    fn random(&self) -> u32;

    /// The kernel's hash of the connection's addresses and ports.
    fn flow(&self) -> u32;

    /// A hash of the client's address, or of the part of the address that `sticky` goes by.
    fn client(&self) -> u32;

    /// A number that identifies the worker of a slot. It stays the same as long as the worker
    /// does, also if other workers restart.
    fn identity(&self, worker: &Worker) -> u32 {
        worker.handle.slot
    }
}
