//! `cargo xtask faults`

use anyhow::Result;
use clap::Args;
use xtask::{command, say};

use super::{build, privileged_program};

/// The program that injects faults, in the package of the privileged tests.
const FAULTS: &str = "steer-faults";

/// The program of the workers that it starts.
const WORKER: &str = "steer-test-worker";

/// Arguments of `cargo xtask faults`.
#[derive(Args)]
pub(crate) struct FaultsArgs {
    /// Inject only this fault; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List the names of the faults
    #[arg(long)]
    list: bool,
}

pub(crate) fn faults(args: &FaultsArgs) -> Result<()> {
    let steer = build()?;
    let worker = privileged_program(WORKER)?;
    let faults = privileged_program(FAULTS)?;
    if args.only.is_empty() && !args.list {
        say::step("injecting faults, which takes some minutes");
    }
    // The variables go through `env`, because sudo drops them.
    let mut inject = command::as_root("/usr/bin/env")?;
    inject
        .arg(format!("STEER_BIN={}", steer.display()))
        .arg(format!("STEER_TEST_WORKER={}", worker.display()))
        .arg(faults);
    if args.list {
        inject.arg("--list");
    }
    for name in &args.only {
        inject.args(["--only", name]);
    }
    command::run(&mut inject)
}
