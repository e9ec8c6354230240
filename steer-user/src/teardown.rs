//! Undoes an attachment: the kernel's hash again, and no trace.

use std::path::Path;

use anyhow::Context as _;
use aya::{
    maps::{Array, Map, ReusePortSockArray},
    programs::SkReuseport,
};
use steer_common::{config::GroupConfig, names};

use crate::{
    host::{self, Host},
    loading::open,
    members::Members,
    pins::{Pins, Port},
    procfd::Scope,
    survey::{FoundGroup, Holders, Target, address, survey},
    table::Table,
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
    let target = Target {
        netns_cookie: port.netns_cookie,
        port: port.port,
    };
    let found = survey(target, members, &mut Holders::new(), Scope::All)?;
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
