//! `cargo xtask bench`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use xtask::{command, say};

use super::{build, cargo};

/// The program that measures, in the package of the privileged tests.
const BENCH: &str = "steer-bench";

/// The program of the workers that it starts.
const WORKER: &str = "steer-test-worker";

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Measure times and memory on a host with 200,000 sockets, and with 64 ports, instead
    #[arg(long)]
    large: bool,
}

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let steer = build()?;
    let worker = privileged_program(WORKER)?;
    let bench = privileged_program(BENCH)?;
    say::step("measuring, which takes some minutes");
    // The variables go through `env`, because sudo drops them.
    let mut measure = command::as_root("/usr/bin/env")?;
    measure
        .arg(format!("STEER_BIN={}", steer.display()))
        .arg(format!("STEER_TEST_WORKER={}", worker.display()))
        .arg(bench);
    if args.large {
        measure.arg("--large");
    }
    command::run(&mut measure)
}

/// Builds a program of the package of the privileged tests, and returns its file.
pub(crate) fn privileged_program(name: &str) -> Result<PathBuf> {
    let program = cargo::executables(&[
        "build",
        "--release",
        "--package",
        "steer-tests",
        "--bin",
        name,
    ])?
    .into_iter()
    .find(|executable| executable.target == name)
    .with_context(|| format!("cargo made no {name}"))?;
    Ok(program.file)
}
