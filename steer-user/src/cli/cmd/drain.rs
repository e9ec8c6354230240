//! `steer drain` and `steer undrain`: a worker gets no new connections, or gets some again.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use steer_common::slot::{SlotState, flags};

use crate::{
    cli::{
        absent,
        args::Span,
        edit::{WorkerArgs, edit, edit_workers, tables},
    },
    output::{
        exit::{Exit, Fail},
        plural::counted,
    },
    state::{bpffs, pins::Pins, recount::Recount, table::Table},
    survey::port::Port,
};

/// How often `--wait` reads the counters.
const LOOK: Duration = Duration::from_millis(20);

/// How long `--wait` believes the counters while they say that connections are open. Then it asks
/// the kernel for its list of connections.
const TRUST: Duration = Duration::from_secs(1);

/// Before `--wait` asks for the next list, it pauses for this many times as long as the kernel
/// took for the last.
const SHARE: u32 = 10;

/// Arguments of `steer drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Wait until the worker's last connection has ended
    #[arg(long)]
    wait: bool,
    /// Stop waiting after this long (500ms, 30s), with exit code 8; the worker stays drained
    #[arg(long, value_name = "TIME", requires = "wait")]
    timeout: Option<Span>,
}

/// Arguments of `steer undrain`.
#[derive(Args, Debug)]
pub struct UndrainArgs {
    #[command(flatten)]
    worker: WorkerArgs,
}

/// Drains the named workers: they are selected no more, and keep the connections that they have.
pub fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let mut drained = Drained::default();
    edit(args.worker.port, |table| {
        let slots = args.worker.slots(table);
        // A worker that has closed its listener isn't selected anyway. Only its connections
        // matter.
        for slot in slots.iter().chain(&args.worker.leaving(table)) {
            drained.cookies.insert(table.slots[*slot as usize].cookie);
        }
        for slot in slots {
            table.set_flag(slot, flags::DRAINING, true)?;
        }
        Ok(())
    })?;
    if drained.cookies.is_empty() {
        return Err(args.worker.not_found());
    }
    if !args.wait {
        return Ok(());
    }
    let (port, mut tables) = tables(args.worker.port)?;
    let deadline = args.timeout.map(|span| Instant::now() + span.into());
    let mut recount_at = Instant::now();
    let mut trusted_until = recount_at + TRUST;
    loop {
        let mut open = drained.counted(&mut tables)?;
        let now = Instant::now();
        if open == 0 && recount_at <= now || trusted_until <= now {
            open = drained.recounted(port)?;
            if open == 0 {
                return Ok(());
            }
            recount_at = Instant::now() + SHARE * now.elapsed();
            trusted_until = recount_at + TRUST;
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            let what = format!(
                "tcp port {}: {} of the worker still open after --timeout; the worker stays drained",
                args.worker.port,
                counted(open, "connection")
            );
            return Err(Fail::new(Exit::TimedOut, what).into());
        }
        thread::sleep(LOOK);
    }
}

/// The workers whose last connections `--wait` waits for.
#[derive(Debug, Default)]
struct Drained {
    /// The cookies of their listeners.
    cookies: BTreeSet<u64>,
    /// The slots that these listeners have, or had when they were open: group, slot and
    /// generation.
    seats: BTreeSet<(u32, u32, u32)>,
}

impl Drained {
    /// How many of their connections are open, according to the counters.
    fn counted(&mut self, tables: &mut [Table]) -> anyhow::Result<u64> {
        let mut open = 0;
        for table in tables {
            table.reload()?;
            let group = table.config.group;
            for (slot, entry) in (0..).zip(&table.slots) {
                if entry.state != SlotState::Free as u32 && self.cookies.contains(&entry.cookie) {
                    self.seats.insert((group, slot, entry.generation));
                    open += table.active(slot);
                }
            }
        }
        Ok(open)
    }

    /// How many of their connections are open, according to the kernel's list.
    fn recounted(&self, port: Port) -> anyhow::Result<u64> {
        let pins = bpffs::existing_root()?.map(|root| Pins::new(&root));
        let recount = pins.as_ref().map(Recount::take);
        // If the port has no attachment any more, nothing is known of its connections.
        let attachments = pins.map(|pins| pins.attachments()).transpose()?;
        match (attachments, recount) {
            (Some(attachments), Some(recount)) if attachments.contains(&port) => {
                let recount = recount?;
                let seats = self.seats.iter();
                Ok(seats
                    .map(|(group, slot, generation)| recount.open(*group, *slot, *generation))
                    .sum())
            }
            _ => Err(absent::not_steered(port)),
        }
    }
}

/// Lets the named workers be selected again.
pub fn undrain(args: &UndrainArgs) -> anyhow::Result<()> {
    edit_workers(&args.worker, |table, slot| {
        Ok(table.set_flag(slot, flags::DRAINING, false)?)
    })
}
