//! What is kept of a run.

use crate::connection::End;

/// An answered request. All times are moments of [`clock::now`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// Its connection's index among the arrivals.
    pub(crate) connection: usize,
    /// Whether it is the connection's first.
    pub(crate) first: bool,
    /// When it was sent; for a first one, when the client began to connect.
    pub(crate) sent: u64,
    /// When its worker began with it.
    pub(crate) began: u64,
    /// For how long the worker was to block.
    pub(crate) service: u64,
    /// The worker.
    pub(crate) pid: u32,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// What became of each connection.
    pub(crate) ends: Vec<End>,
    /// In the order of the answers.
    pub(crate) answered: Vec<Answered>,
    /// How much later than it should each connection came, in nanoseconds.
    pub(crate) late: Vec<u64>,
}
