//! What is shown of the simulation, in tables and pictures.

use steer_common::sim::{Discipline, Waits};

/// What one discipline does at one load.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// A fraction of the capacity.
    pub(crate) load: f64,
    pub(crate) discipline: Discipline,
    /// Waits of first requests.
    pub(crate) first: Waits,
    /// The mean of these, in ms, along the run.
    pub(crate) course: Vec<f64>,
    /// The smallest and the largest p99 of these among the seeds.
    pub(crate) p99_range: (f64, f64),
    /// Waits of further requests, where connections are kept alive.
    pub(crate) further: Option<Waits>,
    /// The most connections that one worker had open at once.
    pub(crate) most_open: u32,
    /// The mean of connections open a worker.
    pub(crate) mean_open: f64,
}

impl Row {
    /// Whether both are of the same load, which is copied and never calculated.
    pub(crate) fn is_at_load_of(&self, other: &Self) -> bool {
        self.load.to_bits() == other.load.to_bits()
    }
}
