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

/// A worker that may be selected.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// What one connection adds to its load: [`crate::slot::inverse_weight`].
    pub inverse_weight: u32,
    /// Connections that it has not closed.
    pub active: u32,
    /// Where the view finds the worker's expensive signals; its own affair.
    pub handle: u64,
}

/// The state of a group at the moment of one selection.
///
/// The kernel programs, the tests and a simulator implement it; the policies are the same for all.
pub trait View {
    /// All ones below a power of two that no slot in use reaches; less than
    /// [`crate::limits::MAX_SLOTS`].
    fn slot_mask(&self) -> u32;

    /// The worker of a slot, where it may be selected. Cheap.
    fn eligible(&self, slot: u32) -> Option<Worker>;

    /// Handshakes in flight on the worker's listener. Expensive: asked for finalists only.
    fn handshakes(&self, worker: &Worker) -> u32;

    /// Moves the cursor of this arrival's kind and returns where it stood.
    fn ticket(&self) -> u64;

    /// The slot whose turn the ticket is; `None` where no worker is live.
    fn turn(&self, ticket: u64) -> Option<u32>;

    /// The same number. In the kernel, one of which the verifier knows nothing, so that it doesn't
    /// take every path through a loop for a new one.
    fn opaque(&self, number: u64) -> u64 {
        number
    }
}
