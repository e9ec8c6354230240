//! `cargo xtask test`

use std::{ffi::OsStr, num::NonZero, path::PathBuf, process::Command, thread};

use anyhow::{Context as _, Result, bail};
use xtask::{
    command,
    ebpf::{self, Object},
    packages, say, toolchain,
};

use super::{
    cargo,
    environment::{assignment, passed_on},
    modules::{self, Module},
    old,
    side_by_side::side_by_side,
    skipped,
    suite::{self, PACKAGES},
};

/// Tests that would change the kernel of this machine for good. `cargo xtask vm` runs them.
pub(crate) const ONLY_IN_MACHINES: [&str; 2] = ["systemd", "hardened"];

/// The modules that take longest. They begin first, because otherwise one of them would run on
/// alone at the end.
const LONGEST: [&str; 7] = [
    "same_choices",
    "gaps",
    "bun",
    "rolling",
    "together",
    "eject",
    "reload",
];

/// Tests that take half an hour and packages of their own. `--servers` runs them.
pub(crate) const SERVERS: &str = "replaced";

/// The test with a real browser. `--browser` runs it.
const BROWSER: &str = "browser";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Of the tests that need root run only this module, or all modules of this program, and no
    /// other tests; may be repeated
    #[arg(long = "test", value_name = "NAME")]
    only: Vec<String>,
    /// Run only the tests of real servers whose workers are replaced under load; prints the tables
    /// of docs/restarts.md
    #[arg(long, conflicts_with = "only")]
    servers: bool,
    /// Run only the test with a real browser; Debian's Chromium is installed for it
    #[arg(long, conflicts_with_all = ["only", "servers"])]
    browser: bool,
    /// How many modules of tests that need root to run at a time [default: the number of
    /// processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
}

impl TestArgs {
    fn jobs(&self) -> Result<NonZero<usize>> {
        // These tests measure what others would disturb.
        let alone = (self.servers || self.browser).then_some(NonZero::<usize>::MIN);
        self.jobs.or(alone).map_or_else(
            || thread::available_parallelism().context("failed to count the processors"),
            Ok,
        )
    }
}

pub(crate) fn test(args: &TestArgs) -> Result<()> {
    let toolchain = toolchain::install()?;
    packages::install(&packages::TESTS)?;
    let mut only = args.only.clone();
    if args.servers {
        packages::install(&packages::SERVERS)?;
        only.push(SERVERS.to_owned());
    }
    if args.browser {
        packages::install(&packages::BROWSER)?;
        only.push(BROWSER.to_owned());
    }
    let policies = ebpf::build(&toolchain, Object::Policies)?;

    let steer = suite::steer_for_tests()?;
    let mut modules = modules::modules(&suite::tests()?)?;
    modules.retain(|module| !ONLY_IN_MACHINES.contains(&module.name.as_str()));
    for name in &only {
        if !modules.iter().any(|module| module.is(name)) {
            bail!("there is no module of tests {name} that needs root");
        }
    }
    modules.retain(|module| is_asked(module, &only));
    let old = if modules.iter().any(|module| module.name == old::TESTS) {
        old::old(!only.is_empty())?
    } else {
        None
    };
    // If the tests of upgrades are skipped, the reason was printed above.
    modules.retain(|module| module.name != old::TESTS || old.is_some());
    modules.sort_by_key(|module| {
        let place = LONGEST.iter().position(|name| *name == module.name);
        place.unwrap_or(LONGEST.len())
    });

    let skips = skipped::begin()?;
    let mut built = vec![
        ("STEER_BIN", steer),
        ("STEER_POLICIES_OBJECT", policies),
        (skipped::VARIABLE, skips.clone()),
    ];
    built.extend(old.map(|old| ("STEER_OLD_BIN", old)));

    if only.is_empty() {
        say::step("running the tests that need no privilege");
        command::run(cargo::cargo(&["test"]).args(PACKAGES).arg("--locked"))?;
    }

    say::step("running the tests that need root");
    let tests = modules
        .iter()
        .map(|module| Ok((module.name.as_str(), privileged(module, &built)?)))
        .collect::<Result<Vec<_>>>()?;
    let failed = side_by_side(tests, args.jobs()?)?;
    let count = modules.iter().map(|module| module.tests.len()).sum();
    skipped::report(&skips, count, modules.len())?;
    if !failed.is_empty() {
        bail!("tests that need root failed: {}", failed.join("; "));
    }
    Ok(())
}

/// Whether a module is to be run. Modules that have an option of their own run only by name.
fn is_asked(module: &Module, only: &[String]) -> bool {
    if [SERVERS, BROWSER].contains(&module.name.as_str()) {
        only.contains(&module.name)
    } else {
        only.is_empty() || module.is_any(only)
    }
}

/// Runs the test program itself as root. A cargo that ran as root would leave root's files in the
/// target directory.
fn privileged(module: &Module, built: &[(&str, PathBuf)]) -> Result<Command> {
    let mut command = command::as_root("/usr/bin/env")?;
    command.args(passed_on());
    for (name, file) in built {
        command.arg(assignment(OsStr::new(name), file.as_os_str()));
    }
    // The tests run one after the other. Some of what a test begins with belongs to its thread,
    // and some to the process.
    command
        .arg(&module.file)
        .args(["--ignored", "--test-threads", "1", "--exact"])
        .args(&module.tests)
        .current_dir(&module.package_dir);
    Ok(command)
}
