//! One steered group: its program, its maps, and the changes that keep them equal to the workers.

mod join;
mod make;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use aya::{
    maps::{Array, MapData, ReusePortSockArray},
    programs::SkReuseport,
};
use aya_log::EbpfLogger;
use steer_common::{
    config::GroupConfig,
    counters::GroupCounters,
    policy::Policy,
    slot::{Slot, SlotState, Tag},
};

pub use self::join::JoinError;
use crate::{
    state::{host::Host, table::Table},
    steering::{plan::Step, take},
    survey::{port::Port, proc::holders::Holder},
};

/// The attachment that a group belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The attachment's port.
    pub port: Port,
    /// Index of the attachment.
    pub attachment: u32,
}

/// How a group's workers are selected.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The policy.
    pub policy: Policy,
    /// Time without progress after which a worker with a waiting connection is ejected. Zero for
    /// never.
    pub eject_after: Duration,
    /// Leading bits of an IPv4 client address that `sticky` goes by.
    pub sticky_v4: u32,
    /// Leading bits of an IPv6 client address that `sticky` goes by.
    pub sticky_v6: u32,
}

/// A group that steer steers, or is about to.
pub struct Group {
    /// Its number in the host's map of groups.
    pub id: u32,
    /// Its configuration and slots.
    pub table: Table,
    /// Id of the program that this steer has loaded for the group.
    pub program_id: u32,
    migrates: bool,
    place: Place,
    dir: PathBuf,
    program: SkReuseport,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    sockets: ReusePortSockArray<MapData>,
    counters: Array<MapData, GroupCounters>,
    /// How many packets the program had left to the kernel's hash when steer last asked.
    hashed: u64,
    /// Whether the group was taken over from a steer that may have been killed in the middle of a
    /// change.
    adopted: bool,
    /// Listeners that become known as soon as their slots are in force, with the slots.
    to_know: Vec<(u64, u32)>,
}

impl Group {
    /// The log of this group's program, once. None unless the log level is debug or finer.
    pub fn take_logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        self.logger.take()
    }

    /// Attaches the program to the group of this listener, in place of the program `former`.
    pub fn attach(&mut self, holder: &Holder, cookie: u64, former: u32) -> anyhow::Result<()> {
        let listener = take::listener(holder, cookie)?;
        // Both programs are written down first. So whenever steer is killed, the attached program
        // is one of the two.
        let config = &mut self.table.config;
        config.former_program = if config.is_program(former) { former } else { 0 };
        config.program_id = self.program_id;
        config.migrates = u32::from(self.migrates);
        self.table.write_config()?;
        self.program
            .attach(&listener)
            .context("failed to attach to the group")?;
        self.table.config.former_program = 0;
        self.table.write_config()
    }

    /// Whether a program is this group's: this steer's, or one that an earlier steer has left
    /// attached.
    pub fn is_program(&self, id: u32) -> bool {
        id == self.program_id || self.table.config.is_program(id)
    }

    /// How many slots are live.
    pub fn live(&self) -> usize {
        self.live_slots().count()
    }

    /// Whether the program has left packets to the kernel's hash since this was last asked.
    pub fn has_left_any_to_the_hash(&mut self) -> anyhow::Result<bool> {
        let hashed = self.counters.get(&0, 0)?.hashed.iter().sum();
        Ok(std::mem::replace(&mut self.hashed, hashed) != hashed)
    }

    /// Puts rules into the configuration. The next commit puts them in force.
    pub fn configure(&mut self, rules: Rules) {
        let config = &mut self.table.config;
        config.policy = rules.policy as u32;
        config.eject_after = rules.eject_after.as_nanos() as u64;
        config.sticky_v4 = rules.sticky_v4;
        config.sticky_v6 = rules.sticky_v6;
    }

    /// Whether a listener has a live slot.
    pub fn has(&self, cookie: u64) -> bool {
        self.live_slots().any(|(_, slot)| slot.cookie == cookie)
    }

    /// The process of each live slot, with the tag of a connection from which that process has
    /// read.
    pub fn tags(&self) -> impl Iterator<Item = (u32, Tag)> {
        self.live_slots()
            .filter_map(|(index, _)| self.tag_of(index))
    }

    /// The process and the tag of one slot, as in [`Self::tags`].
    pub fn tag_of(&self, slot: u32) -> Option<(u32, Tag)> {
        let entry = self.table.slots.get(slot as usize)?;
        Some((entry.pid, self.tag(slot, entry.generation, Tag::READ)))
    }

    /// The slots that are live, with their numbers.
    pub fn live_slots(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..)
            .zip(&self.table.slots)
            .filter(|(_, slot)| slot.state == SlotState::Live as u32)
    }

    /// Empties the slots whose listeners the tracker has seen closing. The kernel has taken such
    /// a listener out of the socket map. If the listener listens again, it gets a new slot.
    pub fn leave_closed(&mut self, host: &mut Host) -> Result<(), JoinError> {
        let closed: Vec<u32> = self
            .live_slots()
            .filter(|(index, slot)| {
                let counters = self.table.counters(*index);
                counters.is_ok_and(|counters| counters.gone == slot.generation)
            })
            .map(|(index, _)| index)
            .collect();
        for slot in closed {
            self.apply(host, &Step::Leave { slot })?;
        }
        Ok(())
    }

    fn tag(&self, slot: u32, generation: u32, stage: u32) -> Tag {
        Tag {
            attachment: self.place.attachment,
            group: self.id,
            slot,
            generation,
            stage,
        }
    }

    /// Puts the slots in force.
    ///
    /// `joins_seen` is the tracker's count of joins up to which every member is known.
    /// `unsteered` says how many of these members steer doesn't have.
    pub fn commit(&mut self, joins_seen: u64, unsteered: u32) -> anyhow::Result<()> {
        self.table.config.unsteered = unsteered;
        self.table.config.joins_seen = if unsteered == 0 {
            joins_seen
        } else {
            GroupConfig::PARTIAL
        };
        self.table.commit()?;
        // This comes after the commit: a listener that is known and has no turn gets nothing.
        for (cookie, slot) in self.to_know.drain(..) {
            self.table.know(cookie, slot)?;
        }
        Ok(())
    }
}
