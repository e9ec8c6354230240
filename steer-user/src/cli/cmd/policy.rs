//! `steer policy`: changes the policy of a running attachment.

use clap::Args;
use steer_common::policy::Policy;

use crate::cli::{args::PolicyArg, edit::edit};

/// Arguments of `steer policy`.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    /// Steered TCP port
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How a worker is chosen from now on
    #[arg(value_enum)]
    policy: PolicyArg,
}

/// Changes the policy of every group of the port. No connection goes unsteered: the program
/// stays, and reads the new policy with its next selection.
pub fn run(args: &PolicyArgs) -> anyhow::Result<()> {
    edit(args.port, |table| {
        table.config.policy = Policy::from(args.policy) as u32;
        Ok(())
    })
}
