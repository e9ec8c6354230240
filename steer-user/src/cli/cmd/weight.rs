//! `steer weight`: gives a worker a larger or smaller share, or puts it on standby.

use clap::Args;
use steer_common::{limits::MAX_WEIGHT, slot::flags};

use crate::cli::edit::{WorkerArgs, edit_workers};

/// Arguments of `steer weight`.
#[derive(Args, Debug)]
pub struct WeightArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The worker's share, relative to the others': 1 to 64; each worker begins with 1
    #[arg(
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WEIGHT)),
        required_unless_present_any = ["standby", "no_standby"]
    )]
    weight: Option<u32>,
    /// Select the worker only if no other worker may be selected
    #[arg(long, conflicts_with = "no_standby")]
    standby: bool,
    /// Select the worker like the others again
    #[arg(long)]
    no_standby: bool,
}

/// Changes the weight of the named workers, or whether they are on standby.
pub fn run(args: &WeightArgs) -> anyhow::Result<()> {
    edit_workers(&args.worker, |table, slot| {
        if let Some(weight) = args.weight {
            table.set_weight(slot, weight)?;
        }
        if args.standby || args.no_standby {
            table.set_flag(slot, flags::STANDBY, args.standby)?;
        }
        Ok(())
    })
}
