//! The cargo that runs these commands. It builds the packages of the host.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::{command, workspace};

/// A program that cargo built.
pub(crate) struct Executable {
    /// Name of the target in its Cargo.toml.
    pub(crate) target: String,
    /// Directory of its package.
    pub(crate) package_dir: PathBuf,
    /// The program.
    pub(crate) file: PathBuf,
    /// Whether the program runs the target's tests, rather than being the target.
    pub(crate) is_test: bool,
}

/// Cargo with these arguments, in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).args(args);
    command
}

/// Runs cargo with these arguments, and returns the programs that cargo built or found fresh.
pub(crate) fn executables(args: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = cargo(args);
    cargo
        .args(["--locked", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let output = cargo
        .output()
        .with_context(|| format!("failed to start {}", command::line(&cargo)))?;
    if !output.status.success() {
        bail!("{} failed: {}", command::line(&cargo), output.status);
    }
    let mut executables = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let message: Value =
            serde_json::from_slice(line).context("failed to read cargo's messages")?;
        executables.extend(executable(&message));
    }
    Ok(executables)
}

fn executable(message: &Value) -> Option<Executable> {
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    Some(Executable {
        target: message["target"]["name"].as_str()?.to_owned(),
        package_dir: manifest.parent()?.to_owned(),
        file: PathBuf::from(message["executable"].as_str()?),
        is_test: message["profile"]["test"].as_bool()?,
    })
}
