//! Undoes an attachment: the kernel's hash again, and no trace.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use aya::{
    maps::{Map, ReusePortSockArray},
    programs::{ProgramError, SkReuseport},
};
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
        failure::after,
        older::Older,
        take,
    },
    survey::{
        address,
        groups::{Following, FoundGroup, Look, survey},
        members::Members,
        port::Port,
    },
};

/// How long workers that end may take to give up their listeners.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often that is looked at.
const PERIOD: Duration = Duration::from_millis(10);

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
        pins.groups(port)?
    } else {
        Vec::new()
    };
    let mut tables = Vec::new();
    for id in &groups {
        tables.push(Table::open(&pins.group(port, *id))?);
    }
    detach(port, &mut members, |group| {
        let mut tables = tables.iter();
        tables.any(|table| table.config.is_program(group.program_id)) || is_own(group)
    })?;
    for (id, table) in groups.iter().zip(&tables) {
        release(&pins.group(port, *id), table)?;
    }
    let Some(held) = HostLock::take_existing()? else {
        return Ok(());
    };
    // Where its directory was removed and nobody has made another, only the registration is left.
    if host.is_pinned() && (lock.is_current() || !pins.attachment(port).exists()) {
        for id in groups {
            host.clear_group(&held, id, &pins.group(port, id))?;
        }
        host.unregister(&held, port)?;
        pins.remove_attachment(port)
            .with_context(|| format!("failed to remove the pins of tcp port {}", port.port))?;
    }
    // The maps must be closed, or the tracker would outlive its pins.
    drop((tables, host, members, edit, lock));
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

/// Detaches the programs of those groups of the port that are chosen, by any member of each. A group may
/// end meanwhile; one that goes on without a process to take a listener from is an error.
pub fn detach(
    port: Port,
    members: &mut Members,
    is_chosen: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Workers that end at this moment are no reason to give up.
        match detach_once(port, members, &is_chosen) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(PERIOD),
        }
    }
}

/// Detaches as many of them as can be; fails where that isn't all.
fn detach_once(
    port: Port,
    members: &mut Members,
    is_chosen: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let mut following = Following::default();
    let mut found = survey(port, members, &mut following, Look::Everywhere)?;
    found.retain(|group| group.has_program && is_chosen(group));
    let outcomes: Vec<_> = found.iter().map(detach_group).collect();
    outcomes.into_iter().collect()
}

/// Detaches a group's program by the first of its listeners that can be taken. Fails where none can: then all
/// processes that were seen with one are gone, or the kernel refuses.
fn detach_group(group: &FoundGroup) -> anyhow::Result<()> {
    let at = address::shown(&group.key);
    let mut refused = None;
    for found in &group.listeners {
        let Some(holder) = &found.holder else {
            continue;
        };
        match take::listener(holder, found.listener.cookie) {
            Ok(listener) => match SkReuseport::detach(&listener) {
                Ok(()) => return Ok(()),
                // It has left the group, or nothing is attached to that any more.
                Err(error) if is_detached(&error) => {}
                Err(error) => refused = Some(error.into()),
            },
            Err(error) => refused = Some(error.into()),
        }
    }
    let port = group.key.port;
    let unseen = || {
        anyhow!(
            "no process that steer sees in /proc has its listeners; run `steer detach --port {port}` in \
             the host's pid namespace"
        )
    };
    let cause: anyhow::Error = refused.unwrap_or_else(unseen);
    Err(anyhow!("tcp {at} can't be detached: {cause:#}"))
}

fn is_detached(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    matches!(
        error.io_error.raw_os_error(),
        Some(libc::ENOENT | libc::EINVAL)
    )
}
