//! Undoes an attachment: the kernel's hash again, and no trace.

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

/// Detaches every group of the port that has steer's program, removes its pins, and the tracker
/// with the last attachment. The caller has nothing of the port open any more.
///
/// `is_own` tells of groups that have steer's program though nothing pinned says so.
pub fn teardown(
    lock: PortLock,
    mut host: Host,
    mut members: Members,
    is_own: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let (port, pins) = (lock.port(), lock.pins().clone());
    let edit = edit_lock(&pins, port)?;
    // What is in another directory of that name is another steer's.
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
    // Where its directory was removed and nobody has made another, only the registration is left.
    if host.is_pinned() && (lock.is_current() || !pins.attachment(port).exists()) {
        for (id, _) in &groups {
            host.clear_group(&held, *id, &pins.group(port, *id))?;
        }
        host.unregister(&held, port)?;
        pins.remove_attachment(port)
            .with_context(|| format!("failed to remove the pins of tcp port {}", port.port))?;
    }
    // The maps must be closed, or the tracker would outlive its pins.
    drop((groups, host, members, edit, lock));
    held.remove_if_unused()
}

/// Hands one group of the port back to the kernel's hash, and names it. The rest of the port goes on.
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

/// Detaches the programs of a port that a steer left whose pins are gone, and says whether there were any.
/// Nothing of the port is pinned.
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

/// Ends what a steer of an earlier version has left of a port, and says whether there was anything.
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

/// Detaches those of some programs of the port that nobody follows, and keeps the others out of `left`.
fn detach_programs(port: Port, left: &mut Vec<Loaded>) -> anyhow::Result<()> {
    let (mut members, tracker) = lone_members(port)?;
    left.retain(|program| !program.is_tracked || program.is_of_tracker(tracker));
    detach(port, &mut members, |group| {
        left.iter().any(|left| left.is_of(group))
    })
}

/// Lists the members of a port of which no group is pinned, with the id of the tracker's maps. The caller has the
/// port's lock.
fn lone_members(port: Port) -> anyhow::Result<(Members, u32)> {
    let kernel = Kernel::read()?;
    let (held, host) = Host::open_or_create(&kernel)?;
    let pins = held.pins().host();
    drop(held);
    let members = Members::load(&kernel, &pins, port.port)?;
    Ok((members, host.id()))
}

/// Takes a group's listeners out of its socket map. The kernel would do that with the map, but only
/// some time after its last pin is gone, and until then nobody else could take them.
fn release(dir: &Path, table: &Table) -> anyhow::Result<()> {
    let mut sockets: ReusePortSockArray<_> =
        open(dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?;
    for (slot, _) in (0_u32..).zip(&table.slots) {
        // One whose listener has closed is empty already.
        drop(sockets.clear_index(&slot));
    }
    Ok(())
}
