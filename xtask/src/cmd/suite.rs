//! steer and all tests, built once: for this system and for the machines.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use xtask::say;

use super::cargo::{self, Executable};

/// What is built, always as a whole: for other packages cargo would choose other features of what they
/// depend on, and build most of it again.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "steer-ebpf"];

/// steer, and what tests it.
pub(crate) struct Suite {
    /// steer itself. It is built as its tests are, which takes a third of the time of a release.
    pub(crate) steer: PathBuf,
    /// The programs of tests and those that they start.
    pub(crate) tests: Vec<Executable>,
}

impl Suite {
    /// Builds what isn't there yet.
    pub(crate) fn build() -> Result<Self> {
        say::step("building steer and its tests");
        let build = |command: &[&str]| cargo::executables(&[command, &PACKAGES].concat());
        let steer = build(&["build", "--bin", "steer"])?
            .into_iter()
            .find(|executable| executable.target == "steer")
            .context("cargo made no steer")?
            .file;
        let tests = build(&["test", "--no-run"])?;
        Ok(Self { steer, tests })
    }
}
