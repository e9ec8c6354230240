//! `cargo xtask test`

use std::{ffi::OsStr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use xtask::{
    command,
    ebpf::{self, Object},
    packages, say, toolchain,
};

use super::{
    build,
    cargo::{self, Executable},
    environment::{assignment, passed_on},
    old,
};

/// Where the ignored tests need root: of two packages.
const PRIVILEGED: [&str; 4] = ["--package", "steer-tests", "--package", "steer-user"];

/// Tests that would change the kernel of this machine for good: `cargo xtask vm` runs them.
pub(crate) const ONLY_IN_MACHINES: [&str; 2] = ["systemd", "hardened"];

/// Tests that take half an hour and packages of their own: `--servers` runs them.
pub(crate) const SERVERS: &str = "servers";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Of those that need root run this file only, and of the others none; may be repeated
    #[arg(long = "test", value_name = "NAME")]
    only: Vec<String>,
    /// Of those that need root run those of real servers whose workers are replaced under load, and no
    /// others; prints the tables of docs/restarts.md
    #[arg(long, conflicts_with = "only")]
    servers: bool,
}

pub(crate) fn test(args: &TestArgs) -> Result<()> {
    let toolchain = toolchain::install()?;
    packages::install(&packages::TESTS)?;
    let mut only = args.only.clone();
    if args.servers {
        packages::install(&packages::SERVERS)?;
        only.push(SERVERS.to_owned());
    }
    let mut built = vec![
        ("STEER_BIN", build()?),
        (
            "STEER_POLICIES_OBJECT",
            ebpf::build(&toolchain, Object::Policies)?,
        ),
    ];

    let is_asked = |test: &str| match &only[..] {
        [] => test != SERVERS,
        only => only.iter().any(|only| only == test),
    };
    let old = if is_asked(old::TESTS) {
        old::old(!only.is_empty())?
    } else {
        None
    };
    let skips_upgrades = old.is_none();
    built.extend(old.map(|old| ("STEER_OLD_BIN", old)));

    if only.is_empty() {
        say::step("running the tests that need no privilege");
        command::run(&mut cargo::cargo(&[
            "test",
            "--locked",
            "--workspace",
            "--exclude",
            "steer-ebpf",
        ]))?;
    }

    say::step("running the tests that need root");
    let mut failed = Vec::new();
    let mut tests = cargo::executables(&[&["test", "--no-run"], &PRIVILEGED[..]].concat())?;
    tests.retain(|test| test.is_test && !ONLY_IN_MACHINES.contains(&test.target.as_str()));
    for name in &only {
        if !tests.iter().any(|test| test.target == *name) {
            bail!("there is no file of tests {name} that needs root");
        }
    }
    // Why was said.
    tests.retain(|test| is_asked(&test.target) && !(skips_upgrades && test.target == old::TESTS));
    for test in &tests {
        say::step(format_args!("tests of {}", test.target));
        let mut privileged = privileged(test, &built)?;
        let status = privileged
            .status()
            .with_context(|| format!("failed to start {}", command::line(&privileged)))?;
        if !status.success() {
            failed.push(format!("{}: {status}", test.target));
        }
    }
    if !failed.is_empty() {
        bail!("tests that need root failed: {}", failed.join("; "));
    }
    Ok(())
}

/// The test program itself runs as root, rather than a cargo that would leave root's files in the
/// target directory.
fn privileged(test: &Executable, built: &[(&str, PathBuf)]) -> Result<Command> {
    let mut command = command::as_root("/usr/bin/env")?;
    command.args(passed_on());
    for (name, file) in built {
        command.arg(assignment(OsStr::new(name), file.as_os_str()));
    }
    command
        .arg(&test.file)
        .args(["--ignored", "--test-threads", "1"])
        .current_dir(&test.package_dir);
    Ok(command)
}
