//! What steer's maps say, and how it differs from the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, ensure};
use steer_common::{
    policy::Policy,
    slot::{SlotState, flags},
};
use steer_user::{
    state::{
        bpffs,
        pins::Pins,
        snapshot::{self, Snapshot},
    },
    survey::port::Port,
    sys::sockdiag,
};

use super::{
    crew::is_there,
    model::{Listener, Model, Rules},
};

/// What the maps have of a port; none where it has no pins.
///
/// # Errors
/// When they can't be read.
pub fn snapshot(port: Port) -> anyhow::Result<Option<Snapshot>> {
    let Some(root) = bpffs::existing_root()? else {
        return Ok(None);
    };
    let pins = Pins::new(&root);
    let is_pinned = pins.attachments()?.contains(&port);
    is_pinned.then(|| snapshot::of(&pins, port)).transpose()
}

/// The slots of a port, for whoever reads of a failure: state, cookie, process, its descriptor and its rules, and
/// what is counted.
pub fn slots(port: Port) -> String {
    let Ok(Some(snapshot)) = snapshot(port) else {
        return "no pins\n".to_owned();
    };
    let mut text = String::new();
    for (index, slot, counters) in snapshot.groups.iter().flat_map(|group| &group.slots) {
        let _ = writeln!(
            text,
            "slot {index}: state {}, cookie {}, pid {}, fd {}, weight {}, flags {}, active {}",
            slot.state,
            slot.cookie,
            slot.pid,
            slot.fd,
            slot.weight,
            slot.flags,
            counters.active()
        );
    }
    text
}

/// Checks the maps of a port that is steered against the model, and where a loader follows it against the
/// kernel's listeners; returns the process and the rules that the maps have, by cookie.
///
/// # Errors
/// When they differ; the error tells how.
pub fn check(port: Port, model: &Model) -> anyhow::Result<BTreeMap<u64, (u32, Rules)>> {
    let snapshot = snapshot(port)?.context("nothing is pinned")?;
    let [group] = &snapshot.groups[..] else {
        anyhow::bail!("{} groups", snapshot.groups.len());
    };
    let policy = Policy::from_raw(group.config.policy);
    ensure!(
        Some(policy) == model.steered.policy(),
        "policy {policy:?}, not {:?}",
        model.steered
    );
    let mut live = BTreeMap::new();
    for (index, slot, _) in &group.slots {
        if slot.state == SlotState::Live as u32 {
            let rules = Rules {
                weight: slot.weight,
                draining: slot.flags & flags::DRAINING != 0,
            };
            let twice = live.insert(slot.cookie, (slot.pid, rules));
            ensure!(
                twice.is_none(),
                "slot {index} has a listener of another slot"
            );
        }
    }
    let known = model.known();
    if model.is_followed() {
        let listeners = sockdiag::listeners(port.port)?;
        let listeners: BTreeSet<u64> = listeners.iter().map(|listener| listener.cookie).collect();
        let slots: BTreeSet<u64> = live.keys().copied().collect();
        ensure!(
            slots == listeners,
            "the maps have {slots:?}, the kernel {listeners:?}"
        );
    } else {
        // Nobody takes those out that have left.
        live.retain(|cookie, _| known.contains_key(cookie));
    }
    let former: BTreeSet<u32> = model
        .units
        .iter()
        .flat_map(|unit| unit.former.clone())
        .collect();
    let same = |(cookie, listener): (&u64, &Listener)| {
        live.get(cookie).is_some_and(|(pid, rules)| {
            let kept = *rules == listener.rules || listener.unsure && *rules == Rules::NONE;
            let lingers = former.contains(pid) && is_there(*pid);
            kept && (*pid == listener.pid || lingers || !model.is_followed())
        })
    };
    ensure!(
        live.len() == known.len() && known.iter().all(same),
        "the maps have {live:?}, not {known:?}"
    );
    Ok(live)
}
