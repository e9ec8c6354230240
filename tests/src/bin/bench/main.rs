//! What steer costs: nanoseconds a selection and a change of a socket's state, as the kernel's own
//! statistics of its programs have them, and connections per second with and without steer.
//!
//! `cargo xtask bench` builds and runs it. It changes no setting of the machine: the statistics are
//! on for as long as it holds a descriptor of theirs, and everything else is in namespaces of its
//! own.

mod cost;
mod machine;
mod rate;
mod stats;
mod summary;
mod trivial;

use std::io::{self, Write as _};

use steer_tests::isolate::isolate;

fn main() -> anyhow::Result<()> {
    isolate()?;
    let mut out = io::stdout();
    writeln!(out, "{}", machine::describe()?)?;
    // First, while the statistics are still off: they cost something themselves.
    let rates = rate::measure()?;
    writeln!(out, "{}", rate::table(&rates))?;
    let costs = cost::measure()?;
    writeln!(out, "{}", cost::table(&costs))?;
    Ok(())
}
