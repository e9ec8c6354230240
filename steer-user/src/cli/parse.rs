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
  1  something failed that no other code stands for
  2  the command line is wrong
  3  not permitted: a capability is missing, or others could change the pins
  4  nothing listens on the port (attach --no-wait), nothing is steered there,
     or the named worker, network device or network namespace isn't there
  5  the listeners can't be steered: no SO_REUSEPORT, MPTCP, several processes
     poll one listener, or another program's socket map has it; or `evict`
     would lose connections
  6  another steer, or another program, already chooses the workers of the port
  7  the kernel is too old (before 5.14), has no BTF, or is locked down
  8  connections were still open when `drain --wait --timeout` gave up";

/// Gives each new connection to the worker that can begin with it first, in place of the kernel's hash
#[derive(Debug, Parser)]
#[command(name = "steer", version = version(), after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Say more on stderr: -v what happens, -vv every event
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Work in another network namespace, such as a container's: a path, a name that `ip netns` lists,
    /// or pid:N for that of process N
    #[arg(long, global = true, value_name = "NETNS")]
    pub netns: Option<Netns>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Steer a port until stopped (Ctrl-C), then give it back to the kernel's hash
    #[command(after_help = EXIT_CODES)]
    Attach(attach::AttachArgs),
    /// Give a port back to the kernel's hash, whether a `steer attach` runs for it or not
    Detach(detach::DetachArgs),
    /// Change how the workers of a steered port are chosen
    Policy(policy::PolicyArgs),
    /// Give a worker a larger or smaller share, or put it on standby
    Weight(weight::WeightArgs),
    /// Give a worker no new connections; those that it has go on
    Drain(drain::DrainArgs),
    /// Give a drained worker new connections again
    Undrain(drain::UndrainArgs),
    /// Move the connections that wait for a hung worker to the others; the worker loses its listener
    Evict(evict::EvictArgs),
    /// Show what is steered: each port's workers, their shares and their open connections
    Status(status::StatusArgs),
    /// Show whether steer can work on this machine, and what is missing
    #[command(after_help = EXIT_CODES)]
    Doctor(doctor::DoctorArgs),
    /// Show the difference in 20 seconds: the kernel's hash, rr and least with three demo workers
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
