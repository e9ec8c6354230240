//! The repository's commands: `cargo xtask <command>`.

mod bare;
mod cmd;
mod sim;
mod vm;
mod waits;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::say;

/// The commands of the steer repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build only the kernel objects, and install the eBPF toolchain if it is missing
    BuildEbpf,
    /// Build steer for use, and install the eBPF toolchain if it is missing
    Build,
    /// Build everything and run `steer demo`, as root
    Demo(cmd::DemoArgs),
    /// Build everything and run all tests; those that need root run as root
    Test(cmd::TestArgs),
    /// Run the tests and the demo in a bare Debian 12 that is made for it, as root
    Bare(bare::Args),
    /// Build everything and measure what steer costs, as root
    Bench(cmd::BenchArgs),
    /// Build everything and measure how long real workers make connections wait, beside the
    /// simulator on the same arrivals, as root
    BenchWaits(Box<waits::Args>),
    /// Build everything, inject faults under load and print what comes of them, as root
    Faults(cmd::FaultsArgs),
    /// Search for input that breaks steer's parsers of foreign input
    Fuzz(cmd::FuzzArgs),
    /// Lint everything, the kernel programs too; a warning is an error
    Clippy,
    /// Simulate the policies, and compare them with the best that could be
    Sim(Box<sim::Args>),
    /// Build everything and run the tests that need root on other kernels, in virtual machines
    Vm(Box<vm::Args>),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::BuildEbpf => cmd::build_ebpf(),
        Command::Build => cmd::build().map(|_steer| ()),
        Command::Demo(args) => cmd::demo(&args),
        Command::Test(args) => cmd::test(&args),
        Command::Bare(args) => bare::run(&args),
        Command::Bench(args) => cmd::bench(&args),
        Command::BenchWaits(args) => waits::run(&args),
        Command::Faults(args) => cmd::faults(&args),
        Command::Fuzz(args) => cmd::fuzz(&args),
        Command::Clippy => cmd::clippy(),
        Command::Sim(args) => sim::run(&args),
        Command::Vm(args) => vm::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::step(format_args!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
