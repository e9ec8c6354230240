//! Undoes an attachment: the kernel's hash again, and no trace.

use std::path::Path;

use anyhow::Context as _;
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
    procfd::Scope,
    survey::{FoundGroup, Holders, address, survey},
    table::{Table, edit_lock},
    take::{self, TakeError},
};

/// Detaches every group of the port that has steer's program, removes its pins, and the tracker
/// with the last attachment. The caller holds the port's lock, and nothing else open of it.
///
/// `own` has programs that are steer's, whether their groups' pins are still there or not.
pub fn teardown(
    pins: &Pins,
    port: Port,
    mut host: Host,
    members: &mut Members,
    own: &[u32],
) -> anyhow::Result<()> {
    let found = survey(port.target(), members, &mut Holders::new(), Scope::All)?;
    let groups = pins.groups(port)?;
    let mut configs: Vec<GroupConfig> = Vec::new();
    for id in &groups {
        let dir = pins.group(port, *id);
        let config: Array<_, GroupConfig> = open(&dir, names::MAP_CONFIG, Map::Array)?;
        configs.push(config.get(&0, 0)?);
    }
    let is_own = |id: u32| own.contains(&id) || configs.iter().any(|config| config.is_program(id));
    for group in found.iter().filter(|group| is_own(group.program_id)) {
        detach(group)?;
    }
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
pub fn end_abandoned(port: Port) -> anyhow::Result<bool> {
    let mut left = abandoned::among(|program| port.has(&program.key));
    left.retain(|program| !program.is_tracked);
    if left.is_empty() {
        return Ok(false);
    }
    let lock = Lock::acquire(&port.lock_name()).context("failed to take the port's lock")?;
    let pins = Pins::new(&bpffs::root()?);
    // The file that the killed one may have left goes with it.
    edit_lock(port)?.release()?;
    let detached = detach_programs(&pins, port, &left);
    host::remove_if_unused(&pins)?;
    bpffs::remove_root_if_empty()?;
    lock.release()?;
    detached?;
    left.into_iter().for_each(Loaded::release);
    Ok(true)
}

fn detach_programs(pins: &Pins, port: Port, left: &[Loaded]) -> anyhow::Result<()> {
    let kernel = Kernel::read()?;
    let lock = host::lock()?;
    let host = Host::open_or_create(pins, &kernel)?;
    lock.release()?;
    let mut members = Members::load(&kernel, &pins.host(), port.port)?;
    drop(host);
    let found = survey(port.target(), &mut members, &mut Holders::new(), Scope::All)?;
    for group in &found {
        if left.iter().any(|left| left.program_id == group.program_id) {
            detach(group)?;
        }
    }
    Ok(())
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

/// Detaches the program from a group, by any of its members.
fn detach(group: &FoundGroup) -> anyhow::Result<()> {
    for found in &group.listeners {
        let Some(holder) = &found.holder else {
            continue;
        };
        match take::listener(holder, found.listener.cookie) {
            Ok(listener) => {
                return SkReuseport::detach(&listener)
                    .with_context(|| format!("failed to detach from tcp {}", address(&group.key)));
            }
            Err(TakeError::Gone { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The last member left meanwhile, and the group with it.
    Ok(())
}
