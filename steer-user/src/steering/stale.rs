//! What killed steers have left of ports, and of network namespaces, that nobody listens in any more.
//!
//! A namespace can't be asked whether it is still there, but the tracker goes on without a loader: once
//! it has seen every listener close, and every connection, the groups are gone, and so are the
//! programs that were attached to them.

use steer_common::slot::SlotState;

use crate::{
    output::print::message,
    state::{
        host::{Host, HostLock, follower},
        lock::{Holder, Lock, LockError},
        pins::Pins,
        snapshot::{self, Snapshot},
    },
    survey::port::Port,
};

/// Removes what is left of other ports than `own`. What fails is said, and left for the next time.
pub fn remove(own: Port) {
    match try_remove(own) {
        Ok(removed) => {
            for Port { netns_cookie, port } in removed {
                message(&format!(
                    "removed what a killed steer had left of tcp port {port} (network namespace \
                     {netns_cookie}): nobody listens there any more"
                ));
            }
        }
        Err(error) => message(&format!(
            "warning: failed to remove what killed steers have left: {error:#}"
        )),
    }
}

fn try_remove(own: Port) -> anyhow::Result<Vec<Port>> {
    let mut removed = Vec::new();
    let Some(held) = HostLock::take_existing()? else {
        return Ok(removed);
    };
    let pins = held.pins();
    for port in pins.attachments()? {
        // Without its lock: whoever has that is taken for the port's steer by those who look.
        let is_free = || Ok::<_, LockError>(follower(pins, port)? == Holder::Nobody);
        if port == own || !is_free()? || !is_left(pins, port)? {
            continue;
        }
        let lock = match held.existing_port(port) {
            Ok(Some(lock)) => lock,
            // Followed, or gone.
            Ok(None) | Err(LockError::Held { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let groups = pins.groups(port)?;
        if groups.is_empty() {
            // It was killed before it had steered any.
            held.forget(&lock)?;
            continue;
        }
        // Somebody who changes it may go on: it is left for the next time.
        let _edit = match Lock::acquire(&pins.edit(port)) {
            Err(LockError::Held { .. }) => continue,
            edit => edit,
        };
        // A steer may have come and gone meanwhile.
        if is_left(pins, port)? {
            let mut host = Host::open(pins)?;
            for group in groups {
                host.clear_group(&held, group, &pins.group(port, group))?;
            }
            host.unregister(&held, port)?;
            pins.remove_attachment(port)?;
            removed.push(port);
        }
    }
    Ok(removed)
}

/// Whether all that is pinned of a port is over, or nothing is.
fn is_left(pins: &Pins, port: Port) -> anyhow::Result<bool> {
    Ok(pins.groups(port)?.is_empty() || is_over(&Host::open(pins)?, &snapshot::of(pins, port)?))
}

/// Whether every listener has closed that was ever in its groups, and every connection of theirs.
fn is_over(host: &Host, attachment: &Snapshot) -> bool {
    let joins = host.joins(attachment.port);
    attachment.groups.iter().all(|group| {
        // None that steer didn't have, which might be there still.
        let all_known = group.excluded.is_empty() && joins == Some(group.config.joins_seen);
        all_known
            && group.slots.iter().all(|(_, slot, counters)| {
                let live = slot.state == SlotState::Live as u32;
                let closed = counters.gone == slot.generation;
                (closed || !live) && counters.active() == 0
            })
    })
}
