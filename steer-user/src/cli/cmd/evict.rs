//! `steer evict`: moves the connections that wait for a hung worker to the others, and ends the
//! worker's listener.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    os::fd::OwnedFd,
};

use anyhow::Context as _;
use clap::Args;
use steer_common::slot::{Slot, SlotState};

use crate::{
    cli::edit::{WorkerArgs, tables},
    output::{
        exit::{Exit, Fail},
        print::message,
    },
    state::{
        bpffs::{self, Use},
        table::Table,
    },
    steering::take::{self, TakeError},
    survey::proc::holders::{self, Holder, Scope},
    sys::{
        privilege::{self, Capability},
        procfs, sockdiag, sockopt,
    },
};

/// Arguments of `steer evict`.
#[derive(Args, Debug)]
pub struct EvictArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Don't ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Shuts down the listeners of the named workers, so that the kernel moves the connections that
/// wait there.
pub fn run(args: &EvictArgs) -> anyhow::Result<()> {
    let mut required = bpffs::for_maps(Use::Write);
    required.push(Capability::SysPtrace);
    privilege::require(&required)?;
    let (_, tables) = tables(args.worker.port)?;
    let mut victims = Vec::new();
    for table in &tables {
        let slots = args.worker.slots(table);
        check(args, table, slots.len())?;
        victims.extend(slots.into_iter().map(|slot| table.slots[slot as usize]));
    }
    if victims.is_empty() {
        return Err(args.worker.not_found());
    }
    if !args.yes && !confirmed(args, victims.len())? {
        message("nothing was evicted");
        return Ok(());
    }
    for victim in &victims {
        evict(victim, args.worker.port).with_context(|| {
            format!(
                "failed to evict process {} from tcp port {}",
                victim.pid, args.worker.port
            )
        })?;
    }
    Ok(())
}

/// Refuses an eviction that would lose connections.
fn check(args: &EvictArgs, table: &Table, count: usize) -> anyhow::Result<()> {
    let port = args.worker.port;
    let refuse = |why: &str| {
        let what = format!("tcp port {port}: {why}");
        Err(Fail::new(Exit::CantSteer, what).into())
    };
    if count > 0 && table.config.migrates == 0 {
        return refuse(
            "connections don't migrate here (the kernel can't, see `steer doctor`, or `--migrate off` was \
             given), so those that wait for the worker would be reset; drain it instead",
        );
    }
    let live = |slot: &&Slot| slot.state == SlotState::Live as u32;
    if count > 0 && table.slots.iter().filter(live).count() == count {
        return refuse("no other worker is left to take the connections that wait");
    }
    Ok(())
}

/// Asks whether to evict.
///
/// # Errors
/// If nobody can be asked, because stdin is no terminal.
fn confirmed(args: &EvictArgs, listeners: usize) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        let what = "evict takes the worker's listener away for good, and can't ask first: stdin is no terminal; add --yes";
        return Err(Fail::new(Exit::Usage, what).into());
    }
    let port = args.worker.port;
    write!(
        io::stderr(),
        "The worker loses its listener on tcp port {port} for good (listeners: {listeners}) and must be \
         restarted. Evict it? [y/N] "
    )?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Ends one listener. The connections that wait there are moved within this call. The worker's
/// accept() fails with EINVAL from then on.
fn evict(victim: &Slot, port: u16) -> anyhow::Result<()> {
    let named = Holder {
        pid: victim.pid,
        comm: String::new(),
        fd: victim.fd,
        polls: true,
        by_epoll: true,
        opaque: false,
        io_uring: false,
    };
    let listener = match take::listener(&named, victim.cookie) {
        Err(gone @ TakeError::Gone { .. }) => from_another(victim, port)?.ok_or(gone)?,
        taken => taken?,
    };
    Ok(sockopt::stop_listening(&listener)?)
}

/// Takes the listener from another process than the slot names. A worker may have handed the
/// listener over and closed it. Nothing tells steer of that until the new worker accepts a
/// connection.
fn from_another(victim: &Slot, port: u16) -> anyhow::Result<Option<OwnedFd>> {
    let listeners = sockdiag::listeners(port)?;
    let mut listeners = listeners.iter();
    let Some(listener) = listeners.find(|listener| listener.cookie == victim.cookie) else {
        return Ok(None);
    };
    let pids = procfs::pids().context("failed to list the processes")?;
    let inodes = BTreeSet::from([listener.inode]);
    let holders = holders::holders(&inodes, Scope::Pids(&pids))?;
    let mut refused = None;
    for holder in holders.into_values().flatten() {
        match take::listener(&holder, victim.cookie) {
            Ok(listener) => return Ok(Some(listener)),
            Err(TakeError::Gone { .. }) => {}
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(None), |error| Err(error.into()))
}
