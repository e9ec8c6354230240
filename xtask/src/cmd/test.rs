//! `cargo xtask test`

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::{
    command, debian,
    ebpf::{self, Object},
    say, toolchain,
};

use super::{
    build,
    cargo::{self, Executable},
};

/// Where the ignored tests need root: of two packages.
const PRIVILEGED: [&str; 4] = ["--package", "steer-tests", "--package", "steer-user"];

/// Tests that would change the kernel of this machine for good: `cargo xtask vm` runs them.
pub(crate) const ONLY_IN_MACHINES: [&str; 2] = ["systemd", "hardened"];

/// Programs that the tests use, and Debian's packages of them. A program counts wherever it comes
/// from: npm is often not Debian's.
const PROGRAMS: [(&str, &str); 5] = [
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("nginx", "nginx"),
    ("npm", "npm"),
    ("python3", "python3"),
];

/// Variables that reach the tests through sudo, which drops all others. `PATH` finds the programs
/// above where they aren't Debian's; the rest lets npm reach its registry.
const PASSED_ON: [&str; 9] = [
    "CI",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "PATH",
    "RUST_BACKTRACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// Variables whose names begin so are passed on as well.
const PASSED_ON_PREFIXES: [&str; 3] = ["STEER_", "npm_config_", "NPM_CONFIG_"];

pub(crate) fn test() -> Result<()> {
    let toolchain = toolchain::install()?;
    install_programs()?;
    let built = [
        ("STEER_BIN", build()?),
        (
            "STEER_POLICIES_OBJECT",
            ebpf::build(&toolchain, Object::Policies)?,
        ),
    ];

    say::step("running the tests that need no privilege");
    command::run(&mut cargo::cargo(&[
        "test",
        "--locked",
        "--workspace",
        "--exclude",
        "steer-ebpf",
    ]))?;

    say::step("running the tests that need root");
    let mut failed = Vec::new();
    let tests = cargo::executables(&[&["test", "--no-run"], &PRIVILEGED[..]].concat())?;
    let here =
        |test: &&Executable| test.is_test && !ONLY_IN_MACHINES.contains(&test.target.as_str());
    for test in tests.iter().filter(here) {
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

fn install_programs() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| command::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !debian::is_here() {
        bail!("the tests need {}: install them first", missing.join(", "));
    }
    debian::install(&missing)
}

/// The test program itself runs as root, rather than a cargo that would leave root's files in the
/// target directory.
fn privileged(test: &Executable, built: &[(&str, PathBuf)]) -> Result<Command> {
    let mut command = command::as_root("/usr/bin/env")?;
    for (name, value) in env::vars_os() {
        if name.to_str().is_some_and(is_passed_on) {
            command.arg(assignment(&name, &value));
        }
    }
    for (name, file) in built {
        command.arg(assignment(OsStr::new(name), file.as_os_str()));
    }
    command
        .arg(&test.file)
        .args(["--ignored", "--test-threads", "1"])
        .current_dir(&test.package_dir);
    Ok(command)
}

fn is_passed_on(name: &str) -> bool {
    PASSED_ON.contains(&name)
        || PASSED_ON_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

fn assignment(name: &OsStr, value: &OsStr) -> OsString {
    let mut assignment = name.to_owned();
    assignment.push("=");
    assignment.push(value);
    assignment
}
