//! The command line of `cargo xtask sim`.

use std::path::PathBuf;

use steer_common::sim::{Discipline, Mix, Part};

use super::words;

/// Arguments of `cargo xtask sim`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many workers, each with one event loop; more than 256 only for random, jsq and central
    #[arg(long, default_value_t = 8)]
    pub(crate) workers: usize,

    /// Loads in percent of the workers' capacity
    #[arg(long, value_delimiter = ',', default_value = "50,70,85")]
    pub(crate) load: Vec<f64>,

    /// How connections are given to workers
    #[arg(
        long,
        value_parser = words::discipline(),
        value_delimiter = ',',
        default_value = "random,rr,p2c,least,jsq,central"
    )]
    pub(crate) by: Vec<Discipline>,

    /// How many runs of each, each with other arrivals; their waits are put together
    #[arg(long, default_value_t = 3)]
    pub(crate) seeds: u64,

    /// How many connections a run has; unless given, 100000, or 20000 with --keep-alive
    #[arg(long)]
    pub(crate) connections: Option<usize>,

    /// Service times, each with its probability
    #[arg(long, default_value = "0.95x4,0.05x200", value_name = "PxMS,..")]
    pub(crate) mix: Mix,

    /// Add as many connections of this mix after those of --mix; may be given several times
    #[arg(long, value_name = "PxMS,..", conflicts_with = "arrivals")]
    pub(crate) then: Vec<Mix>,

    /// How long a worker takes for any request on top of its service time, in ms
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    pub(crate) overhead: f64,

    /// Round trip to the clients in ms, for which a handshake is in flight
    #[arg(long, default_value_t = 0.1, value_name = "MS")]
    pub(crate) rtt: f64,

    /// Keep connections alive, for 1 to this many requests
    #[arg(long, value_name = "REQUESTS", num_args = 0..=1, default_missing_value = "60")]
    pub(crate) keep_alive: Option<u32>,

    /// Mean time in ms between an answer and the next request of a kept-alive connection
    #[arg(long, default_value_t = 200.0, value_name = "MS")]
    pub(crate) think: f64,

    /// How many clients, each with an address of its own; matters to sticky only
    #[arg(long, default_value_t = 10_000)]
    pub(crate) clients: u32,

    /// How many workers stop in the middle of the run
    #[arg(long, default_value_t = 0, value_name = "WORKERS")]
    pub(crate) stuck: usize,

    /// How many workers take longer for everything
    #[arg(long, default_value_t = 0, value_name = "WORKERS")]
    pub(crate) slow: usize,

    /// How many times as long the workers of --slow take
    #[arg(long, default_value_t = 10.0, value_name = "TIMES")]
    pub(crate) slow_by: f64,

    /// For how long the workers of --stuck stop, in ms
    #[arg(long, default_value_t = 10_000.0, value_name = "MS")]
    pub(crate) stuck_for: f64,

    /// Time in ms without progress after which the policies skip a worker; 0 for never
    #[arg(long, default_value_t = 1000.0, value_name = "MS")]
    pub(crate) eject_after: f64,

    /// Signals that the policies don't have
    #[arg(long, value_parser = words::part(), value_delimiter = ',', value_name = "PART")]
    pub(crate) off: Vec<Part>,

    /// Take the connections from this file instead of drawing them; the file has a line for each:
    /// its time, the service time of its first request, and think time and service time of every
    /// further one, in ms
    #[arg(long, value_name = "FILE")]
    pub(crate) arrivals: Option<PathBuf>,

    /// Write the connections of the first seed and load to a file that --arrivals takes
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    /// Draw a picture of the waits at each load
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Draw a picture of the waits along the run, for the first load
    #[arg(long, value_name = "FILE")]
    pub(crate) course: Option<PathBuf>,

    /// Print JSON in place of a table
    #[arg(long)]
    pub(crate) json: bool,
}
