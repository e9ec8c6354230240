//! What killed steers have left of ports, and of network namespaces, that nobody listens in any more.
//!
//! A namespace can't be asked whether it is still there, but the tracker goes on without a loader: once
//! it has seen every listener close, and every connection, the groups are gone, and so are the
//! programs that were attached to them.

use steer_common::slot::SlotState;

use crate::{
    host::{self, Host},
    lock::{Lock, LockError},
    output::message,
    pins::{Pins, Port},
    snapshot::{self, Snapshot},
    table::edit_lock,
};

/// Removes what is left of other ports than `own`. What fails is said, and left for the next time.
pub fn remove(pins: &Pins, own: Port) {
    match try_remove(pins, own) {
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

fn try_remove(pins: &Pins, own: Port) -> anyhow::Result<Vec<Port>> {
    let mut removed = Vec::new();
    for port in pins.attachments()? {
        if port == own {
            continue;
        }
        let lock = match Lock::acquire(&port.lock_name()) {
            Ok(lock) => lock,
            // Followed.
            Err(LockError::Held { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        // Nobody edits it now, and the file that a killed one may have left goes with this lock.
        let edit = edit_lock(port)?;
        let host_lock = host::lock()?;
        let mut host = Host::open(pins)?;
        if is_over(&host, &snapshot::of(pins, port)?) {
            for group in pins.groups(port)? {
                host.clear_group(group)?;
            }
            host.unregister(port)?;
            pins.remove_attachment(port)?;
            removed.push(port);
        }
        host_lock.release()?;
        edit.release()?;
        lock.release()?;
    }
    Ok(removed)
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
