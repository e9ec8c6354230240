//! Undoes an attachment: the kernel's hash again, and no trace.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya::{
    maps::{Array, Map, ReusePortSockArray},
    programs::SkReuseport,
};
use steer_common::{config::GroupConfig, names};

use crate::{
    abandoned::{self, Loaded},
    bpffs,
    host::{self, Host},
    loading::{Kernel, open},
    lock::Lock,
    members::Members,
    pins::{Pins, Port},
    survey::{Following, FoundGroup, Look, address, survey},
    table::{Table, edit_lock},
    take::{self, TakeError},
};

/// How long workers that end may take to give up their listeners.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often that is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Detaches every group of the port that has steer's program, removes its pins, and the tracker
/// with the last attachment. The caller holds the port's lock, and nothing else open of it.
///
/// `is_own` tells of groups that have steer's program though nothing pinned says so.
pub fn teardown(
    pins: &Pins,
    port: Port,
    mut host: Host,
    members: &mut Members,
    is_own: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let groups = pins.groups(port)?;
    let mut configs: Vec<GroupConfig> = Vec::new();
    for id in &groups {
        let dir = pins.group(port, *id);
        let config: Array<_, GroupConfig> = open(&dir, names::MAP_CONFIG, Map::Array)?;
        configs.push(config.get(&0, 0)?);
    }
    detach(port, members, |group| {
        let mut configs = configs.iter();
        configs.any(|config| config.is_program(group.program_id)) || is_own(group)
    })?;
    for id in groups {
        release(&pins.group(port, id))?;
        host.clear_group(id)?;
    }
    let lock = host::lock()?;
    if host.is_pinned() {
        host.unregister(port)?;
    }
    drop(host);
    pins.remove_attachment(port)
        .with_context(|| format!("failed to remove the pins of tcp port {}", port.port))?;
    lock.release()?;
    host::remove_if_unused(pins)
}

/// Detaches the programs of a port that a steer left whose pins are gone, and says whether there were any.
/// Nothing of the port is pinned.
pub fn end_abandoned(port: Port) -> anyhow::Result<bool> {
    let mut left = abandoned::among(|program| port.has(&program.key));
    if left.is_empty() {
        return Ok(false);
    }
    let lock = Lock::acquire(&port.lock_name()).context("failed to take the port's lock")?;
    let pins = Pins::new(&bpffs::root()?);
    // The file that the killed one may have left goes with it.
    edit_lock(port)?.release()?;
    let detached = detach_programs(&pins, port, &mut left);
    host::remove_if_unused(&pins)?;
    bpffs::remove_root_if_empty()?;
    lock.release()?;
    detached?;
    let were_any = !left.is_empty();
    left.into_iter().for_each(Loaded::release);
    Ok(were_any)
}

/// Detaches those of some programs of the port that nobody follows, and keeps the others out of `left`.
fn detach_programs(pins: &Pins, port: Port, left: &mut Vec<Loaded>) -> anyhow::Result<()> {
    let kernel = Kernel::read()?;
    let lock = host::lock()?;
    let host = Host::open_or_create(pins, &kernel)?;
    left.retain(|program| !program.is_tracked || program.is_of_tracker(host.id()));
    let mut members = Members::load(&kernel, &pins.host(), port.port)?;
    drop(host);
    // Only now: no port is registered, so another steer would take the pins for unused.
    lock.release()?;
    detach(port, &mut members, |group| {
        left.iter().any(|left| left.is_of(group))
    })
}

/// Takes a group's listeners out of its socket map. The kernel would do that with the map, but only
/// some time after its last pin is gone, and until then nobody else could take them.
fn release(dir: &Path) -> anyhow::Result<()> {
    let mut sockets: ReusePortSockArray<_> =
        open(dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?;
    for (slot, _) in (0_u32..).zip(Table::open(dir)?.slots) {
        // One whose listener has closed is empty already.
        drop(sockets.clear_index(&slot));
    }
    Ok(())
}

/// Detaches the programs of those groups of the port that are chosen, by any member of each. A group may
/// end meanwhile; one that goes on without a process to take a listener from is an error.
fn detach(
    port: Port,
    members: &mut Members,
    is_chosen: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = survey(
            port.target(),
            members,
            &mut Following::default(),
            Look::Everywhere,
        )?;
        found.retain(|group| group.has_program && is_chosen(group));
        let mut rest = None;
        for group in &found {
            if !detach_group(group)? {
                rest = Some(group);
            }
        }
        let Some(group) = rest else {
            return Ok(());
        };
        ensure!(
            Instant::now() < deadline,
            "tcp {} can't be detached: no process that steer sees in /proc has its listeners; run \
             `steer detach --port {}` in the host's pid namespace",
            address(&group.key),
            port.port
        );
        thread::sleep(PERIOD);
    }
}

/// Detaches a group's program, unless every process that was seen with one of its listeners is gone.
fn detach_group(group: &FoundGroup) -> anyhow::Result<bool> {
    for found in &group.listeners {
        let Some(holder) = &found.holder else {
            continue;
        };
        match take::listener(holder, found.listener.cookie) {
            Ok(listener) => {
                SkReuseport::detach(&listener).with_context(|| {
                    format!("failed to detach from tcp {}", address(&group.key))
                })?;
                return Ok(true);
            }
            Err(TakeError::Gone { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
