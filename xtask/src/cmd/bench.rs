//! `cargo xtask bench`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use xtask::{command, say};

use super::{build, cargo};

/// The program that measures, in the package of the privileged tests.
const BENCH: &str = "steer-bench";

pub(crate) fn bench() -> Result<()> {
    let steer = build()?;
    let bench = privileged_program(BENCH)?;
    say::step("measuring, which takes about four minutes");
    // Through `env`, since sudo drops the variable.
    let mut measure = command::as_root("/usr/bin/env")?;
    measure
        .arg(format!("STEER_BIN={}", steer.display()))
        .arg(bench);
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
