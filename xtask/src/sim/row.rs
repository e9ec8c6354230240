//! What tables and pictures show of the simulation.

use steer_common::sim::{Discipline, Waits};

/// What one discipline does at one load.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The load as a fraction of the capacity.
    pub(crate) load: f64,
    pub(crate) discipline: Discipline,
    /// Waits of first requests.
    pub(crate) first: Waits,
    /// The mean of these waits along the run, in ms.
    pub(crate) course: Vec<f64>,
    /// The smallest and the largest p99 of these waits among the seeds.
    pub(crate) p99_range: (f64, f64),
    /// Waits of further requests; none if connections aren't kept alive.
    pub(crate) further: Option<Waits>,
    /// The most connections that one worker had open at once.
    pub(crate) most_open: u32,
    /// How many connections a worker had open in the mean.
    pub(crate) mean_open: f64,
}

impl Row {
    /// Whether both rows are of the same load. A load is copied and never calculated, so its bits
    /// are compared.
    pub(crate) fn is_at_load_of(&self, other: &Self) -> bool {
        self.load.to_bits() == other.load.to_bits()
    }
}
