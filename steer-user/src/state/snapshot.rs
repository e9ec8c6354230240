//! Reads what the kernel has of every attachment, without changing anything.

use std::collections::BTreeSet;

use anyhow::Context as _;
use aya::maps::{Array, HashMap, Map};
use steer_common::{
    config::{EXCLUDED, GroupConfig},
    counters::{Counters, GroupCounters},
    learn::Learned,
    limits::MAX_SLOTS,
    names,
    slot::{Slot, SlotState},
};

use crate::{
    kernel::loading::open_read_only as open,
    state::{host, lock::Holder, pins::Pins},
    survey::port::Port,
};

/// One attachment.
pub struct Snapshot {
    /// The port of the attachment.
    pub port: Port,
    /// The steer that follows the port.
    pub loader: Holder,
    /// The groups of the attachment.
    pub groups: Vec<GroupSnapshot>,
}

/// One group.
pub struct GroupSnapshot {
    /// The group's configuration.
    pub config: GroupConfig,
    /// What steer counts of the group as a whole.
    pub counters: GroupCounters,
    /// How long the jobs of its workers take.
    pub learned: Learned,
    /// The slots in use, with their numbers and counts.
    pub slots: Vec<(u32, Slot, Counters)>,
    /// Cookies of the listeners that get nothing, because nobody serves them.
    pub excluded: BTreeSet<u64>,
}

/// The attachments of all network namespaces, or of one port in all of them.
pub fn read(pins: &Pins, port: Option<u16>) -> anyhow::Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    let ports = pins
        .attachments()
        .context("failed to list the pinned attachments")?;
    for attachment in ports {
        if port.is_some_and(|port| port != attachment.port) {
            continue;
        }
        let snapshot = of(pins, attachment)?;
        // An attachment that waits for its first listener has no groups, and nothing to show.
        if !snapshot.groups.is_empty() {
            snapshots.push(snapshot);
        }
    }
    Ok(snapshots)
}

/// One attachment.
pub fn of(pins: &Pins, port: Port) -> anyhow::Result<Snapshot> {
    let mut groups = Vec::new();
    for id in pins.groups(port)? {
        match group(pins, port, id) {
            // The group's pins were removed meanwhile: the group goes back to the kernel's hash.
            Err(_) if !pins.group(port, id).exists() => {}
            group => groups.push(group?),
        }
    }
    Ok(Snapshot {
        port,
        loader: host::follower(pins, port)?,
        groups,
    })
}

fn group(pins: &Pins, port: Port, id: u32) -> anyhow::Result<GroupSnapshot> {
    let dir = pins.group(port, id);
    let config: Array<_, GroupConfig> = open(&dir, names::MAP_CONFIG, Map::Array)?;
    let counters: Array<_, GroupCounters> = open(&dir, names::MAP_GROUP, Map::Array)?;
    let learned: Array<_, Learned> = open(&dir, names::MAP_LEARNED, Map::Array)?;
    let slots: Array<_, Slot> = open(&dir, names::MAP_SLOTS, Map::Array)?;
    let slot_counters: Array<_, Counters> = open(&dir, names::MAP_COUNTERS, Map::Array)?;
    let mut in_use = Vec::new();
    for index in 0..MAX_SLOTS {
        let slot = slots.get(&index, 0)?;
        if slot.state != SlotState::Free as u32 {
            in_use.push((index, slot, slot_counters.get(&index, 0)?));
        }
    }
    let known: HashMap<_, u64, u32> = open(&dir, names::MAP_KNOWN, Map::HashMap)?;
    let mut excluded = BTreeSet::new();
    for entry in &known {
        // An entry may be removed while the map is read. It is left out.
        if let Ok((cookie, EXCLUDED)) = entry {
            excluded.insert(cookie);
        }
    }
    Ok(GroupSnapshot {
        excluded,
        config: config.get(&0, 0)?,
        counters: counters.get(&0, 0)?,
        learned: learned.get(&0, 0)?,
        slots: in_use,
    })
}
