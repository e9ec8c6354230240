//! What steer costs: nanoseconds a selection and a change of a socket's state, as the kernel's own
//! statistics of its programs have them, and connections per second and the SYNs of a flood with and
//! without steer; or what it takes on a large host.
//!
//! `cargo xtask bench` builds and runs it. It changes no setting of the machine: the statistics are
//! on for as long as it holds a descriptor of theirs, and everything else is in namespaces of its
//! own.

mod cost;
mod flood;
mod large;
mod machine;
mod rate;
mod stats;
mod summary;
mod trivial;

use std::io::{self, Write as _};

use clap::Parser;
use rate::Unit;
use rustix::time::{ClockId, clock_gettime};
use steer_tests::{isolate::isolate, net};

/// Measures what steer costs.
#[derive(Parser)]
struct Args {
    /// Only the cost of a run of each program
    #[arg(long)]
    cost: bool,
    /// Only connections and requests per second
    #[arg(long, conflicts_with = "cost")]
    rates: bool,
    /// Only times and memory on a host with 200,000 sockets of connections, and with 64 ports
    #[arg(long, conflicts_with_all = ["cost", "rates"])]
    large: bool,
    /// Hold that many sockets open, for the former
    #[arg(long, hide = true)]
    hold: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(count) = args.hold {
        return large::hold(count);
    }
    isolate()?;
    let mut out = io::stdout();
    writeln!(out, "{}", machine::describe()?)?;
    if args.large {
        writeln!(out, "{}", large::measure()?)?;
        return Ok(());
    }
    net::route_nowhere()?;
    if !args.cost {
        // First, while the statistics are still off: they cost something themselves.
        for unit in [Unit::Connections, Unit::Requests] {
            let rates = rate::measure(unit)?;
            writeln!(out, "{}", rate::table(&rates, unit))?;
        }
        if args.rates {
            return Ok(());
        }
        let floods = flood::measure()?;
        writeln!(out, "{}", flood::table(&floods))?;
    }
    let costs = cost::measure()?;
    writeln!(out, "{}", cost::table(&costs))?;
    Ok(())
}

/// What the thread has used so far, in seconds. The kernel's work on a segment is part of it.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
