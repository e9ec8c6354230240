//! The command line of `cargo xtask bench-waits`.

use anyhow::{Result, ensure};
use steer_common::sim::{Discipline, Mix};

use crate::sim::discipline;

/// The load in percent at which the workers' overhead is measured. At this load most requests wait
/// for the one before.
pub(super) const CALIBRATION_LOAD: f64 = 85.0;

/// For how many seconds at most connections arrive while the overhead is measured.
pub(super) const CALIBRATION: f64 = 15.0;

/// Arguments of `cargo xtask bench-waits`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many worker processes, each with one event loop
    #[arg(long, default_value_t = 8)]
    pub(super) workers: usize,

    /// Loads in percent of the workers' measured capacity
    #[arg(long, value_delimiter = ',', default_value = "50,70,85")]
    pub(super) load: Vec<f64>,

    /// How connections are given to workers: hash is the kernel's own, without steer
    #[arg(
        long,
        value_parser = discipline(),
        value_delimiter = ',',
        default_value = "hash,rr,p2c,least"
    )]
    pub(super) by: Vec<Discipline>,

    /// How many runs of each, each with other arrivals; their waits are put together
    #[arg(long, default_value_t = 3)]
    pub(super) seeds: u64,

    /// For how many seconds connections arrive in a run; a sixth of that is warm-up
    #[arg(long, default_value_t = 15.0)]
    pub(super) seconds: f64,

    /// Keep connections alive, for 1 to this many requests
    #[arg(long, value_name = "REQUESTS", num_args = 0..=1, default_missing_value = "60")]
    pub(super) keep_alive: Option<u32>,

    /// Mean time in ms between an answer and the next request of a kept-alive connection
    #[arg(long, default_value_t = 200.0, value_name = "MS")]
    pub(super) think: f64,

    /// Service times, each with its probability
    #[arg(long, default_value = "0.95x4,0.05x200", value_name = "PxMS,..")]
    pub(super) mix: Mix,

    /// Print JSON in place of a table
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.workers > 0, "there must be a worker");
        ensure!(self.seeds > 0, "there must be a seed");
        ensure!(self.seconds >= 1.0, "a run takes a second at least");
        ensure!(
            self.load.iter().all(|load| *load > 0.0 && *load < 100.0),
            "a load is more than 0 % and less than 100 % of the capacity"
        );
        ensure!(
            self.by
                .iter()
                .all(|by| by.policy().is_some_and(|_| *by != Discipline::Sticky)),
            "what is measured is hash, rr, p2c and least"
        );
        Ok(())
    }
}
