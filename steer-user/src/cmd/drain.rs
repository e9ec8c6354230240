//! `steer drain` and `steer undrain`: no new connections for a worker, and some again.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use steer_common::slot::flags;

use crate::{
    args::Span,
    edit::{WorkerArgs, edit_workers, tables},
    exit::{Exit, Fail},
};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(20);

/// Arguments of `steer drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Return when the worker has no connection left
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this long, with exit code 8; the worker stays drained
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Span>,
}

/// Arguments of `steer undrain`.
#[derive(Args, Debug)]
pub struct UndrainArgs {
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Selects a process's workers no more; what they have goes on.
pub fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    edit_workers(&args.worker, |table, slot| {
        Ok(table.set_flag(slot, flags::DRAINING, true)?)
    })?;
    if !args.wait {
        return Ok(());
    }
    let (_, mut tables) = tables(args.worker.port)?;
    let deadline = args.timeout.map(|span| Instant::now() + span.into());
    loop {
        let mut active = 0;
        for table in &mut tables {
            table.reload()?;
            let slots = args.worker.slots(table);
            active += slots
                .into_iter()
                .map(|slot| table.active(slot))
                .sum::<u64>();
        }
        if active == 0 {
            return Ok(());
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let what = format!(
                "tcp port {}: {active} connections are still open; the worker stays drained",
                args.worker.port
            );
            return Err(Fail::new(Exit::TimedOut, what).into());
        }
        thread::sleep(LOOK);
    }
}

/// Selects a process's workers again.
pub fn undrain(args: &UndrainArgs) -> anyhow::Result<()> {
    edit_workers(&args.worker, |table, slot| {
        Ok(table.set_flag(slot, flags::DRAINING, false)?)
    })
}
