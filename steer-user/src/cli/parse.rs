//! The command line.

use std::sync::LazyLock;

use clap::{ArgAction, Parser, Subcommand};

use crate::{
    cli::cmd::{attach, demo, detach, doctor, drain, evict, policy, status, weight},
    sys::netns::Netns,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed that none of the others names
  2  the command line is wrong
  3  not permitted: a capability is missing, or a directory is another user's
  4  no listener on the port (--no-wait), or nothing steered there
  5  the listeners can't be steered: no SO_REUSEPORT, one listener polled by several
     processes, MPTCP, or in another program's socket map
  6  another steer, or another program, holds the group
  7  the kernel is too old (before 5.14), has no BTF or is locked down
  8  connections were still open when `drain --wait --timeout` ended";

/// Steers new connections to the workers of a port by a better rule than the kernel's hash
#[derive(Debug, Parser)]
#[command(name = "steer", version = version(), after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Say more on stderr: -v what happens, -vv every event
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Work in another network namespace: a path, a name that `ip netns` lists, or pid:N
    #[arg(long, global = true, value_name = "NETNS")]
    pub netns: Option<Netns>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Steer the workers of a port until stopped (Ctrl-C), then hand it back to the kernel's hash
    #[command(after_help = EXIT_CODES)]
    Attach(attach::AttachArgs),
    /// Hand a port back to the kernel's hash, whether a `steer attach` runs for it or not
    Detach(detach::DetachArgs),
    /// Change the policy of a steered port in place
    Policy(policy::PolicyArgs),
    /// Change a worker's share, or put it on standby
    Weight(weight::WeightArgs),
    /// Select a worker no more; what it has goes on
    Drain(drain::DrainArgs),
    /// Select a drained worker again
    Undrain(drain::UndrainArgs),
    /// Move what waits for a hung worker to the others; the worker loses its listener
    Evict(evict::EvictArgs),
    /// Show groups, workers, shares and open connections of everything that is steered
    Status(status::StatusArgs),
    /// Show what works on this machine, what doesn't, and why
    #[command(after_help = EXIT_CODES)]
    Doctor(doctor::DoctorArgs),
    /// Show the difference in 20 seconds: three workers of steer's own, hash, rr and least
    Demo(demo::DemoArgs),
    /// A worker of the demo
    #[command(hide = true)]
    DemoWorker(demo::DemoWorkerArgs),
}

/// The version, and which kernel object is embedded.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let object = crate::kernel::object::hash().unwrap_or("none embedded");
        format!("{} (kernel object {object})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}
