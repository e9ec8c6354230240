//! Changes an attachment in place. Commands change the same maps as the attachment's loader, and
//! have the lock for changes meanwhile, as the loader does.

use anyhow::Context as _;
use clap::Args;
use steer_common::slot::SlotState;

use crate::{
    cli::absent,
    output::exit::{Exit, Fail},
    state::{
        bpffs::{self, Use},
        host::edit_lock,
        pins::Pins,
        table::Table,
    },
    survey::port::Port,
    sys::{netns, privilege},
};

/// Which workers a command is about.
#[derive(Args, Clone, Copy, Debug)]
pub struct WorkerArgs {
    /// Steered TCP port
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The workers of this process, at every address of the port
    #[arg(long, required_unless_present = "slot")]
    pid: Option<u32>,
    /// The worker in this slot (see `steer status`), at every address of the port
    #[arg(long, conflicts_with = "pid")]
    slot: Option<u32>,
}

impl WorkerArgs {
    /// The live slots of a group that the command names.
    pub fn slots(&self, table: &Table) -> Vec<u32> {
        self.slots_in(table, SlotState::Live)
    }

    /// The slots that the command names whose listeners have closed, and which still have open
    /// connections.
    pub fn leaving(&self, table: &Table) -> Vec<u32> {
        let mut slots = self.slots_in(table, SlotState::Gone);
        slots.retain(|slot| table.active(*slot) > 0);
        slots
    }

    fn slots_in(&self, table: &Table, state: SlotState) -> Vec<u32> {
        (0..)
            .zip(&table.slots)
            .filter(|(_, entry)| entry.state == state as u32)
            .filter(|(slot, entry)| {
                self.slot.is_none_or(|wanted| wanted == *slot)
                    && self.pid.is_none_or(|wanted| wanted == entry.pid)
            })
            .map(|(slot, _)| slot)
            .collect()
    }

    /// The error that no such worker is steered.
    pub fn not_found(&self) -> anyhow::Error {
        let what = format!(
            "{} has no steered listener on tcp port {}; `steer status --port {}` shows the workers",
            self.name(),
            self.port,
            self.port
        );
        Fail::new(Exit::NothingThere, what).into()
    }

    fn name(&self) -> String {
        match (self.pid, self.slot) {
            (Some(pid), _) => format!("process {pid}"),
            (None, Some(slot)) => format!("slot {slot}"),
            (None, None) => "nobody".into(),
        }
    }
}

/// The tables of all groups of a steered port in this network namespace.
pub fn tables(port: u16) -> anyhow::Result<(Port, Vec<Table>)> {
    let (port, pins) = place(port)?;
    Ok((port, opened(&pins, port)?))
}

/// Changes every group of a port, and puts the changes in force.
pub fn edit(
    port: u16,
    mut change: impl FnMut(&mut Table) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (port, pins) = place(port)?;
    let Some(_lock) = edit_lock(&pins, port)? else {
        return Err(absent::not_steered(port));
    };
    for mut table in opened(&pins, port)? {
        change(&mut table)?;
        table.commit()?;
    }
    Ok(())
}

/// A port of this network namespace, and the pins that would have it.
fn place(port: u16) -> anyhow::Result<(Port, Pins)> {
    privilege::require(&bpffs::for_maps(Use::Write))?;
    let port = Port {
        netns_cookie: netns::cookie().context("failed to identify the network namespace")?,
        port,
    };
    match bpffs::existing_root()? {
        Some(root) => Ok((port, Pins::new(&root))),
        None => Err(absent::not_steered(port)),
    }
}

fn opened(pins: &Pins, port: Port) -> anyhow::Result<Vec<Table>> {
    let groups = Table::of_port(pins, port)?;
    if groups.is_empty() {
        return Err(absent::not_steered(port));
    }
    Ok(groups.into_iter().map(|(_, table)| table).collect())
}

/// Changes the slots of the named workers.
///
/// # Errors
/// If there are no such workers.
pub fn edit_workers(
    workers: &WorkerArgs,
    mut change: impl FnMut(&mut Table, u32) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut found = false;
    edit(workers.port, |table| {
        for slot in workers.slots(table) {
            change(table, slot)?;
            found = true;
        }
        Ok(())
    })?;
    if found {
        return Ok(());
    }
    Err(workers.not_found())
}
