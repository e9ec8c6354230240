//! Removes what killed steers have left of ports on which nobody listens any more, also in
//! network namespaces that are gone.
//!
//! steer can't ask the kernel whether a namespace is gone. But the tracker goes on without a
//! loader. Once the tracker has seen every listener and every connection close, the groups are
//! gone, and so are the programs that were attached to them.

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

/// Removes what is left of ports other than `own`. If that fails, a message says so, and the next
/// steer tries it again.
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
        // This looks without taking the port's lock, because whoever has that lock is taken for
        // the port's steer.
        let is_free = || Ok::<_, LockError>(follower(pins, port)? == Holder::Nobody);
        if port == own || !is_free()? || !is_left(pins, port)? {
            continue;
        }
        let lock = match held.existing_port(port) {
            Ok(Some(lock)) => lock,
            // A steer follows the port, or the port is gone.
            Ok(None) | Err(LockError::Held { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let groups = pins.groups(port)?;
        if groups.is_empty() {
            // The killed steer had steered nothing yet.
            held.forget(&lock)?;
            continue;
        }
        // Somebody is changing the port's tables and may go on. The port is left for the next
        // time.
        let _edit = match Lock::acquire(&pins.edit(port)) {
            Err(LockError::Held { .. }) => continue,
            edit => edit,
        };
        // A steer may have come and gone meanwhile, so this looks again under the locks.
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

/// Whether all that is pinned of a port is over, or no group is pinned.
fn is_left(pins: &Pins, port: Port) -> anyhow::Result<bool> {
    Ok(pins.groups(port)?.is_empty() || is_over(&Host::open(pins)?, &snapshot::of(pins, port)?))
}

/// Whether all listeners that were ever in the attachment's groups have closed, and all their
/// connections.
fn is_over(host: &Host, attachment: &Snapshot) -> bool {
    let joins = host.joins(attachment.port);
    attachment.groups.iter().all(|group| {
        // A member that steer didn't have might be there still.
        let all_known = group.excluded.is_empty() && joins == Some(group.config.joins_seen);
        all_known
            && group.slots.iter().all(|(_, slot, counters)| {
                let live = slot.state == SlotState::Live as u32;
                let closed = counters.gone == slot.generation;
                (closed || !live) && counters.active() == 0
            })
    })
}
