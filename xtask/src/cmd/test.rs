//! `cargo xtask test`

use std::{ffi::OsStr, num::NonZero, path::PathBuf, process::Command, thread};

use anyhow::{Context as _, Result, bail};
use xtask::{
    command,
    ebpf::{self, Object},
    packages, say, toolchain,
};

use super::{
    cargo::{self, Executable},
    environment::{assignment, passed_on},
    old,
    side_by_side::side_by_side,
    suite::{self, PACKAGES},
};

/// The directories of the packages whose ignored tests need root.
const PRIVILEGED: [&str; 2] = ["tests", "steer-user"];

/// Tests that would change the kernel of this machine for good. `cargo xtask vm` runs them.
pub(crate) const ONLY_IN_MACHINES: [&str; 2] = ["systemd", "hardened"];

/// The files that take longest. They begin first, because otherwise one of them would run on alone
/// at the end.
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
pub(crate) const SERVERS: &str = "servers";

/// The test with a real browser. `--browser` runs it.
const BROWSER: &str = "browser";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Of the tests that need root run only this file, and no other tests; may be repeated
    #[arg(long = "test", value_name = "NAME")]
    only: Vec<String>,
    /// Run only the tests of real servers whose workers are replaced under load; prints the tables
    /// of docs/restarts.md
    #[arg(long, conflicts_with = "only")]
    servers: bool,
    /// Run only the test with a real browser; Debian's Chromium is installed for it
    #[arg(long, conflicts_with_all = ["only", "servers"])]
    browser: bool,
    /// How many files of tests that need root to run at a time [default: the number of processors]
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

    let is_asked = |test: &str| match &only[..] {
        [] => test != SERVERS && test != BROWSER,
        only => only.iter().any(|only| only == test),
    };
    let old = if is_asked(old::TESTS) {
        old::old(!only.is_empty())?
    } else {
        None
    };
    let skips_upgrades = old.is_none();

    let steer = suite::steer_for_tests()?;
    let mut tests = suite::tests()?;
    let mut built = vec![("STEER_BIN", steer), ("STEER_POLICIES_OBJECT", policies)];
    built.extend(old.map(|old| ("STEER_OLD_BIN", old)));

    if only.is_empty() {
        say::step("running the tests that need no privilege");
        command::run(cargo::cargo(&["test"]).args(PACKAGES).arg("--locked"))?;
    }

    say::step("running the tests that need root");
    tests.retain(|test| {
        test.is_test
            && PRIVILEGED.iter().any(|dir| test.package_dir.ends_with(dir))
            && !ONLY_IN_MACHINES.contains(&test.target.as_str())
    });
    for name in &only {
        if !tests.iter().any(|test| test.target == *name) {
            bail!("there is no file of tests {name} that needs root");
        }
    }
    // If the tests of upgrades are skipped, the reason was printed above.
    tests.retain(|test| is_asked(&test.target) && !(skips_upgrades && test.target == old::TESTS));
    tests.sort_by_key(|test| {
        let place = LONGEST.iter().position(|name| *name == test.target);
        place.unwrap_or(LONGEST.len())
    });
    let tests = tests
        .iter()
        .map(|test| Ok((test.target.as_str(), privileged(test, &built)?)))
        .collect::<Result<Vec<_>>>()?;
    let failed = side_by_side(tests, args.jobs()?)?;
    if !failed.is_empty() {
        bail!("tests that need root failed: {}", failed.join("; "));
    }
    Ok(())
}

/// Runs the test program itself as root. A cargo that ran as root would leave root's files in the
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
