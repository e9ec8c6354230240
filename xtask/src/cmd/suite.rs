//! All tests, built once for this system and for the machines, and a steer for this system's
//! tests.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use xtask::say;

use super::cargo::{self, Executable};

/// The packages that are built, always all of them. If cargo built other packages, it would choose
/// other features of what they depend on, and build most of it again.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "steer-ebpf"];

/// Builds steer as its tests are built, which takes a third of the time of a release.
pub(crate) fn steer_for_tests() -> Result<PathBuf> {
    say::step("building steer");
    let built = executables(&["build", "--bin", "steer"])?;
    let mut built = built.into_iter();
    let steer = built.find(|executable| executable.target == "steer");
    Ok(steer.context("cargo made no steer")?.file)
}

/// Builds the programs of tests, and the programs that they start.
pub(crate) fn tests() -> Result<Vec<Executable>> {
    say::step("building the tests");
    executables(&["test", "--no-run"])
}

fn executables(command: &[&str]) -> Result<Vec<Executable>> {
    cargo::executables(&[command, &PACKAGES].concat())
}
