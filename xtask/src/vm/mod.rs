//! `cargo xtask vm`: runs the privileged tests on other kernels, in virtual machines.
//!
//! Debian has bootable kernels of many series. xtask starts each of them in QEMU. The initial file
//! system holds a small Debian system, steer, its tests, and an init that runs the tests. Nothing
//! is installed on this machine: what is needed is unpacked below `target/vm`.
//!
//! QEMU emulates the processor. If this machine is a virtual one itself, nothing better can be
//! relied on. An emulated guest is ten times slower, so nothing is timed in it.

mod archive;
mod args;
mod expected;
mod guest;
mod kernel;
mod machine;
mod packages;
mod qemu;
mod report;
mod systemd;
mod version;

use anyhow::{Result, bail};
use xtask::{packages as needed, say, workspace};

pub(crate) use self::args::Args;
use self::{guest::Guest, machine::Machine, packages::Packages};

/// The directory into which everything is unpacked.
const DIRECTORY: &str = "target/vm";

/// Runs the tests on each kernel that was asked for, and prints a line for each.
pub(crate) fn run(args: &Args) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machines are x86-64 ones, and this machine isn't");
    }
    needed::install(&needed::MACHINES)?;
    let directory = workspace::root().join(DIRECTORY);
    let packages = Packages::new(&directory)?;
    let qemu = qemu::install(&packages)?;
    let kernels = args
        .kernels
        .iter()
        .map(|series| kernel::install(&packages, *series))
        .collect::<Result<Vec<_>>>()?;
    let system = systemd::install(&packages)?;
    if args.fetch {
        return Ok(());
    }
    let guest = Guest::build(&directory, &system, &args.tests)?;

    let mut runs = Vec::new();
    for kernel in &kernels {
        say::step(format_args!("Linux {}", kernel.release));
        let machine = Machine {
            qemu: &qemu,
            kernel,
            guest: &guest,
            directory: &directory,
            args,
        };
        let run = machine.run()?;
        if run.passed() {
            say::step(format_args!("Linux {}: {}", kernel.release, run.summary()));
        } else {
            say::step(format_args!(
                "Linux {}: {}\n{}",
                kernel.release,
                run.summary(),
                run.tail()
            ));
        }
        runs.push(run);
    }
    report::print(&runs)?;
    let failed: Vec<&str> = runs
        .iter()
        .filter(|run| !run.passed())
        .map(|run| run.release.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    Ok(())
}
