//! `cargo xtask build`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use xtask::{say, toolchain};

use super::cargo;

/// Builds steer in the release profile, and returns its file.
pub(crate) fn build() -> Result<PathBuf> {
    toolchain::install()?;
    let steer = cargo::executables(&["build", "--release", "--package", "steer-user"])?
        .into_iter()
        .find(|executable| executable.target == "steer")
        .context("cargo made no steer")?
        .file;
    say::step(format_args!("built {}", steer.display()));
    Ok(steer)
}
