//! Undoes an attachment: the kernel's hash chooses again, and no trace of steer is left.

use std::path::Path;

use anyhow::Context as _;
use aya::maps::{Map, ReusePortSockArray};
use steer_common::names;

use crate::{
    kernel::loading::{Kernel, open},
    state::{
        bpffs,
        host::{Host, HostLock, PortLock, edit_lock},
        pins::Pins,
        table::Table,
    },
    steering::{
        abandoned::{self, Loaded},
        detach::detach,
        failure::after,
        older::Older,
    },
    survey::{address, groups::FoundGroup, members::Members, port::Port},
};

/// Detaches every group of the port that has steer's program, and removes the port's pins. The
/// last attachment takes the tracker with it. The caller has nothing else of the port open.
///
/// `is_own` names groups that have a program of steer's though no pin says so.
pub fn teardown(
    lock: PortLock,
    mut host: Host,
    mut members: Members,
    is_own: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let (port, pins) = (lock.port(), lock.pins().clone());
    let edit = edit_lock(&pins, port)?;
    // If the lock isn't current, what is in a directory of this name is another steer's.
    let groups = if lock.is_current() {
        Table::of_port(&pins, port)?
    } else {
        Vec::new()
    };
    detach(port, &mut members, |group| {
        let mut groups = groups.iter();
        groups.any(|(_, table)| table.config.is_program(group.program_id)) || is_own(group)
    })?;
    for (id, table) in &groups {
        release(&pins.group(port, *id), table)?;
    }
    let Some(held) = HostLock::take_existing()? else {
        return Ok(());
    };
    // If somebody has removed the port's directory and nobody has made a new one, only the
    // registration is left.
    if host.is_pinned() && (lock.is_current() || !pins.attachment(port).exists()) {
        for (id, _) in &groups {
            host.clear_group(&held, *id, &pins.group(port, *id))?;
        }
        host.unregister(&held, port)?;
        pins.remove_attachment(port)
            .with_context(|| format!("failed to remove the pins of tcp port {}", port.port))?;
    }
    // If these maps stayed open, the tracker would outlive its pins.
    drop((groups, host, members, edit, lock));
    held.remove_if_unused()
}

/// Hands one group of the port back to the kernel's hash, and returns its name. The other groups
/// of the port go on.
pub fn hand_back(
    lock: &PortLock,
    host: &mut Host,
    members: &mut Members,
    id: u32,
) -> anyhow::Result<String> {
    let (port, pins) = (lock.port(), lock.pins());
    let _edit = edit_lock(pins, port)?;
    let dir = pins.group(port, id);
    let table = Table::open(&dir)?;
    detach(port, members, |group| {
        table.config.is_program(group.program_id)
    })?;
    release(&dir, &table)?;
    let held = HostLock::take_existing()?.context("steer's pins are gone")?;
    host.clear_group(&held, id, &dir)?;
    pins.remove_group(port, id)?;
    Ok(address::shown(&table.config.key))
}

/// Detaches the programs that a steer has left on a port, and whose pins are gone. Returns
/// whether there were any. The caller has made sure that nothing of the port is pinned.
pub fn end_abandoned(port: Port) -> anyhow::Result<bool> {
    let mut left = abandoned::among(|program| port.has(&program.key));
    if left.is_empty() {
        return Ok(false);
    }
    let lock = PortLock::follow(port)?;
    let detached = detach_programs(port, &mut left);
    let given_up = lock.give_up();
    if let Err(error) = detached {
        return Err(after(error, given_up));
    }
    given_up?;
    let were_any = !left.is_empty();
    left.into_iter().for_each(Loaded::release);
    Ok(were_any)
}

/// Ends what a steer of an earlier version has left of a port. Returns whether there was
/// anything.
pub fn end_older(port: Port) -> anyhow::Result<bool> {
    let Some(root) = bpffs::existing_root()? else {
        return Ok(false);
    };
    if Pins::new(&root).other_layouts(port)?.is_empty() {
        return Ok(false);
    }
    let lock = PortLock::follow(port)?;
    let ended = Older::take(lock.pins(), port, None).and_then(|older| match older {
        Some(older) => older.end(&mut lone_members(port)?.0),
        None => Ok(()),
    });
    let given_up = lock.give_up();
    if let Err(error) = ended {
        return Err(after(error, given_up));
    }
    given_up.map(|()| true)
}

/// Detaches those programs of the port that nobody follows. Removes all others from `left`.
fn detach_programs(port: Port, left: &mut Vec<Loaded>) -> anyhow::Result<()> {
    let (mut members, tracker) = lone_members(port)?;
    left.retain(|program| !program.is_tracked || program.is_of_tracker(tracker));
    detach(port, &mut members, |group| {
        left.iter().any(|left| left.is_of(group))
    })
}

/// A lister of the members of a port of which no group is pinned, and the id of the tracker's
/// maps. The caller holds the port's lock.
fn lone_members(port: Port) -> anyhow::Result<(Members, u32)> {
    let kernel = Kernel::read()?;
    let (held, host) = Host::open_or_create(&kernel)?;
    let pins = held.pins().host();
    drop(held);
    let members = Members::load(&kernel, &pins, port.port)?;
    Ok((members, host.id()))
}

/// Takes a group's listeners out of its socket map. The kernel does that itself when it frees the
/// map, but only some time after the map's last pin is gone. Until then nobody else could take
/// the listeners.
fn release(dir: &Path, table: &Table) -> anyhow::Result<()> {
    let mut sockets: ReusePortSockArray<_> =
        open(dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?;
    for (slot, _) in (0_u32..).zip(&table.slots) {
        // If a slot's listener has closed, the slot is empty already.
        drop(sockets.clear_index(&slot));
    }
    Ok(())
}
