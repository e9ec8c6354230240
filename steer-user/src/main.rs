//! The `steer` command.

use std::process::ExitCode;

use clap::Parser as _;
use steer_user::{
    cli::{
        cmd::{attach, demo, detach, doctor, drain, evict, policy, status, weight},
        parse::{Cli, Command},
    },
    kernel::loading,
    output::{logger, print::message},
    steering::failure,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    logger::init(cli.verbose);
    match enter(&cli).and_then(|()| run(&cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            message(&format!("steer: {error:#}{}", failure::advice(&error)));
            failure::code(&error).into()
        }
    }
}

/// Checks the kernel's version, and enters the network namespace of `--netns`. This must come
/// before there is a second thread, because each thread has a network namespace of its own.
fn enter(cli: &Cli) -> anyhow::Result<()> {
    // `doctor` itself says what is missing. The demo's workers need nothing of the kernel.
    if !matches!(cli.command, Command::Doctor(_) | Command::DemoWorker(_)) {
        loading::require_version()?;
    }
    match &cli.netns {
        Some(netns) => Ok(netns.enter()?),
        None => Ok(()),
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Attach(args) => attach::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Weight(args) => weight::run(args),
        Command::Drain(args) => drain::drain(args),
        Command::Undrain(args) => drain::undrain(args),
        Command::Evict(args) => evict::run(args),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Demo(args) => demo::run(args),
        Command::DemoWorker(args) => demo::run_worker(args),
    }
}
