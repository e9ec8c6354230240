//! Injects faults under load and prints what came of them as a Markdown table.
//!
//! `cargo xtask faults` builds and runs it. It changes no setting of the machine: everything is in
//! namespaces of its own.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context as _;
use clap::Parser;
use steer_tests::faults::{self, Fault, Row};

/// Injects faults under load.
#[derive(Parser)]
struct Args {
    /// Only this fault; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List the faults' names
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut out = io::stdout();
    if args.list {
        for fault in faults::ALL {
            writeln!(out, "{:<18} {}", fault.name, fault.what)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut injected = Vec::new();
    for fault in chosen(&args.only)? {
        let start = Instant::now();
        let rows = fault.run();
        writeln!(
            io::stderr(),
            "{} took {:.1} s",
            fault.name,
            start.elapsed().as_secs_f64()
        )?;
        injected.push((fault, rows));
    }
    write!(out, "{}", faults::markdown(&injected))?;
    let hold = injected
        .iter()
        .all(|(_, rows)| !rows.is_empty() && rows.iter().all(Row::holds));
    Ok(if hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<Fault>> {
    if only.is_empty() {
        return Ok(faults::ALL.to_vec());
    }
    only.iter()
        .map(|name| {
            faults::named(name).with_context(|| format!("no fault is named {name}; see --list"))
        })
        .collect()
}
