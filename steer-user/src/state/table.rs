//! A group's configuration and slots, as the loader and the commands change them.
//!
//! Read, change and commit under the lock for changes ([`crate::state::host::edit_lock`]): a
//! commit writes the configuration as a whole.

use std::path::Path;

use anyhow::Context as _;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use bytemuck::Zeroable as _;
use steer_common::{
    config::{EXCLUDED, GroupConfig, SlotSet, insert},
    counters::Counters,
    limits::{MAX_SLOTS, MAX_TURNS},
    names,
    slot::{Slot, SlotState, flags, inverse_weight},
    turns::{Claim, lay_out},
};

use crate::{kernel::loading::open, state::pins::Pins, survey::port::Port};

/// What matters of a slot's counters to whoever wants to give the slot away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Connections that are open.
    pub active: u64,
    /// The slot's listener has closed, or was shut down.
    pub closed: bool,
}

/// The configuration and slots of one group.
pub struct Table {
    /// The configuration. It is what the kernel has since the last commit or reload, plus what
    /// was changed here.
    pub config: GroupConfig,
    /// The slots up to the last one in use, likewise.
    pub slots: Vec<Slot>,
    slots_map: Array<MapData, Slot>,
    counters: Array<MapData, Counters>,
    config_map: Array<MapData, GroupConfig>,
    turns: Array<MapData, u32>,
    known: HashMap<MapData, u64, u32>,
}

impl Table {
    /// Opens the maps in a group's directory, and reads them.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let mut table = Self {
            config: GroupConfig::zeroed(),
            slots: Vec::new(),
            slots_map: open(dir, names::MAP_SLOTS, Map::Array)?,
            counters: open(dir, names::MAP_COUNTERS, Map::Array)?,
            config_map: open(dir, names::MAP_CONFIG, Map::Array)?,
            turns: open(dir, names::MAP_TURNS, Map::Array)?,
            known: open(dir, names::MAP_KNOWN, Map::HashMap)?,
        };
        table.reload()?;
        Ok(table)
    }

    /// The tables of all groups of a port, with the groups' numbers.
    pub fn of_port(pins: &Pins, port: Port) -> anyhow::Result<Vec<(u32, Self)>> {
        let mut tables = Vec::new();
        for id in pins.groups(port)? {
            tables.push((id, Self::open(&pins.group(port, id))?));
        }
        Ok(tables)
    }

    /// Reads the maps again, because another command may have changed them.
    pub fn reload(&mut self) -> anyhow::Result<()> {
        self.config = self.config_map.get(&0, 0)?;
        self.slots.clear();
        // The mask covers all slots in use, except slots of a commit that was never finished.
        for index in 0..MAX_SLOTS {
            let slot = self.slots_map.get(&index, 0)?;
            if slot.state == SlotState::Free as u32 && index > self.config.slot_mask {
                break;
            }
            self.slots.push(slot);
        }
        let used = self
            .slots
            .iter()
            .rposition(|slot| slot.state != SlotState::Free as u32);
        self.slots.truncate(used.map_or(0, |last| last + 1));
        Ok(())
    }

    /// Writes one slot.
    pub fn write_slot(&mut self, slot: u32, entry: Slot) -> Result<(), MapError> {
        self.slots_map.set(slot, entry, 0)?;
        let index = slot as usize;
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::zeroed());
        }
        self.slots[index] = entry;
        Ok(())
    }

    /// Gives a slot's worker another weight, with effect from the next commit on.
    pub fn set_weight(&mut self, slot: u32, weight: u32) -> Result<(), MapError> {
        let entry = Slot {
            weight,
            inverse_weight: inverse_weight(weight),
            ..self.slots[slot as usize]
        };
        self.write_slot(slot, entry)
    }

    /// Sets or clears one of [`flags`], with effect from the next commit on.
    pub fn set_flag(&mut self, slot: u32, flag: u32, on: bool) -> Result<(), MapError> {
        let mut entry = self.slots[slot as usize];
        entry.flags = if on {
            entry.flags | flag
        } else {
            entry.flags & !flag
        };
        self.write_slot(slot, entry)
    }

    /// What is counted of a slot.
    pub fn counters(&self, slot: u32) -> Result<Counters, MapError> {
        self.counters.get(&slot, 0)
    }

    /// How a slot is used, for whoever wants to give it away.
    pub fn usage(&self, slot: u32) -> Use {
        let is_closed = |counters: &Counters| {
            let entry = self.slots.get(slot as usize);
            entry.is_some_and(|entry| entry.generation == counters.gone)
        };
        // If the counters can't be read, the slot isn't given away.
        self.counters(slot).map_or(
            Use {
                active: 1,
                closed: true,
            },
            |counters| Use {
                active: counters.active(),
                closed: is_closed(&counters),
            },
        )
    }

    /// How many connections of a slot are open: the worker has not closed them.
    pub fn active(&self, slot: u32) -> u64 {
        // If the counters can't be read, the slot isn't given away.
        self.counters(slot).map_or(1, |counters| counters.active())
    }

    /// Begins a slot's counts anew. The sums of the configuration take over what was counted of
    /// the slot's former workers.
    pub fn reset_counters(&mut self, slot: u32, generation: u32) -> Result<(), MapError> {
        let former = self.counters(slot)?;
        let config = &mut self.config;
        config.retired_selected = config.retired_selected.saturating_add(former.selected);
        config.retired_connections = config
            .retired_connections
            .saturating_add(former.connections);
        config.retired_migrated = config
            .retired_migrated
            .saturating_add(u32::try_from(former.migrated).unwrap_or(u32::MAX));
        // Connections that wait for the worker already count as waiting since now, when the
        // worker gets the slot.
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64;
        let fresh = Counters {
            generation,
            progress_at: now,
            born_at: now,
            ..Counters::default()
        };
        self.counters.set(slot, fresh, 0)
    }

    /// The slot that a listener has, or had last.
    pub fn known_slot(&self, cookie: u64) -> Option<u32> {
        let slot = self.known.get(&cookie, 0).ok();
        slot.filter(|slot| *slot != EXCLUDED)
    }

    /// Writes down which slot a listener has.
    pub fn know(&mut self, cookie: u64, slot: u32) -> Result<(), MapError> {
        self.known.insert(cookie, slot, 0)
    }

    /// Forgets a listener.
    pub fn forget(&mut self, cookie: u64) {
        // If the listener isn't known, there is nothing to forget.
        drop(self.known.remove(&cookie));
    }

    /// Excludes exactly these listeners: they get nothing, because nobody serves them. Forgets
    /// the `unsteered` listeners, so that they get the share that the hash would give them.
    pub fn exclude(&mut self, excluded: &[u64], unsteered: &[u64]) -> Result<(), MapError> {
        let mut former = Vec::new();
        let mut stale = Vec::new();
        for entry in &self.known {
            let (cookie, slot) = entry?;
            if slot == EXCLUDED && excluded.contains(&cookie) {
                former.push(cookie);
            } else if slot == EXCLUDED || unsteered.contains(&cookie) {
                stale.push(cookie);
            }
        }
        for cookie in stale {
            self.known.remove(&cookie)?;
        }
        for cookie in excluded.iter().filter(|cookie| !former.contains(cookie)) {
            self.known.insert(cookie, EXCLUDED, 0)?;
        }
        Ok(())
    }

    /// Lays out the turns of the ready workers and puts the whole configuration in force.
    pub fn commit(&mut self) -> anyhow::Result<()> {
        let turns = arrange(&mut self.config, &self.slots);
        for (index, slot) in (self.config.turns_start..).zip(turns) {
            self.turns.set(index, slot, 0)?;
        }
        self.write_config()
    }

    /// Puts the configuration in force, and leaves the turns as they are.
    pub fn write_config(&mut self) -> anyhow::Result<()> {
        self.config_map
            .set(0, self.config, 0)
            .context("failed to write the group's configuration")
    }
}

/// Writes into the configuration what follows from the slots. Returns the turns for that half of
/// the map which the configuration names afterwards.
pub fn arrange(config: &mut GroupConfig, slots: &[Slot]) -> Vec<u32> {
    let mut sets = [SlotSet::default(); 3];
    let [ready, standby, live] = &mut sets;
    let mut claims = Vec::new();
    let mut live_slots = slots
        .iter()
        .filter(|entry| entry.state == SlotState::Live as u32);
    config.loops_known = u32::from(live_slots.all(|entry| entry.waiters != 0));
    for (slot, entry) in (0..).zip(slots) {
        if entry.state != SlotState::Live as u32 {
            continue;
        }
        insert(live, slot);
        if entry.flags & flags::DRAINING != 0 {
            continue;
        }
        if entry.flags & flags::STANDBY != 0 {
            insert(standby, slot);
        } else {
            insert(ready, slot);
            claims.push(Claim {
                slot,
                weight: entry.weight,
            });
        }
    }
    [config.ready, config.standby, config.live] = sets;
    let mut turns = vec![0; MAX_TURNS as usize];
    let count = lay_out(&claims, &mut vec![0; claims.len()], &mut turns);
    turns.truncate(count);
    // Take the half that is not in force.
    config.turns_start = if config.turns_start == 0 {
        MAX_TURNS
    } else {
        0
    };
    config.turns_len = count as u32;
    config.slot_mask = (slots.len() as u32).next_power_of_two() - 1;
    turns
}
