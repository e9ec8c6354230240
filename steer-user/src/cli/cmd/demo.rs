//! `steer demo`, and the hidden command that its workers run.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::demo::{self, Options};

/// Arguments of `steer demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many rounds of three simultaneous connections each policy gets
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// How long each request blocks its worker's event loop, in milliseconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    block_ms: u64,
}

/// Arguments of `steer demo-worker`.
#[derive(Args, Debug)]
pub struct DemoWorkerArgs {
    /// Port of 127.0.0.1 to serve on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Plays the demo.
///
/// # Errors
/// A [`demo::DemoError`] in most cases.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    demo::run(&Options {
        steer: std::env::current_exe().context("failed to find steer's own executable")?,
        rounds: args.rounds,
        block: Duration::from_millis(args.block_ms),
    })
}

/// Serves as a worker of the demo until SIGTERM.
///
/// # Errors
/// Those of [`demo::worker_main`].
pub fn run_worker(args: &DemoWorkerArgs) -> anyhow::Result<()> {
    demo::worker_main(args.port)
}
