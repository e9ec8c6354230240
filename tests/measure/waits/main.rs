//! How long requests wait for real workers: single event loops that block for as long as a request
//! asks, under connections that come when a file says so, however slow the answers are.
//!
//! `cargo xtask bench-waits` writes such files, runs this for each and puts the waits beside those
//! of the simulator. Every run has namespaces of its own and prints one line of JSON.

mod arrivals;
mod client;
mod clock;
mod connection;
mod group;
mod record;
mod report;
mod wire;
mod worker;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use clap::Parser;
use steer_tests::isolate::isolate;

use crate::group::Group;

/// Measures how long requests wait.
#[derive(Parser)]
enum Args {
    /// Start workers, give them the connections of a file, and tell how long requests waited
    Run {
        /// The connections, as `cargo xtask sim --arrivals` takes them
        #[arg(long)]
        arrivals: PathBuf,
        /// steer's policy; the kernel's hash decides unless given
        #[arg(long)]
        policy: Option<String>,
        /// How many workers
        #[arg(long, default_value_t = 8)]
        workers: usize,
    },
    /// Be a worker
    Worker {
        /// Where to listen
        address: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Run {
            arrivals,
            policy,
            workers,
        } => {
            let arrivals = arrivals::read(&arrivals)?;
            isolate()?;
            clock::exact_timers()?;
            let group = Group::start(workers, policy.as_deref())?;
            let run = client::run(&arrivals, group.address())?;
            let steered = group.stop()?;
            let report = report::Report::new(&run, steered);
            let mut out = io::stdout();
            serde_json::to_writer(&out, &report)?;
            writeln!(out)?;
            Ok(())
        }
        Args::Worker { address } => worker::serve(address),
    }
}
