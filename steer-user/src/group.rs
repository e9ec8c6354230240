//! One steered group: its program, its maps, and the changes that keep them equal to the workers.

use std::{fs, io, path::PathBuf, time::Duration};

use anyhow::Context as _;
use aya::{
    maps::{Map, MapData, MapError, ReusePortSockArray},
    programs::{SkReuseport, sk_reuseport::SkReuseportAttachType},
};
use aya_log::EbpfLogger;
use bytemuck::Zeroable as _;
use steer_common::{
    config::{GroupConfig, GroupKey},
    limits::MAX_SLOTS,
    names,
    policy::Policy,
    slot::{Slot, SlotState, Tag, inverse_weight},
};

use crate::{
    host::Host,
    loading::{Constants, Kernel, open},
    pins::{Pins, Port, make_dir, remove_tree},
    procfd::Holder,
    slots::{Step, Wanted, comm},
    table::Table,
    take::{self, TakeError},
    verifier,
};

/// Where a group belongs.
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
    /// How to choose.
    pub policy: Policy,
    /// Time without progress after which a worker with a waiting connection is ejected; zero for
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
    /// Id of this steer's program.
    pub program_id: u32,
    migrates: bool,
    place: Place,
    dir: PathBuf,
    program: SkReuseport,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    sockets: ReusePortSockArray<MapData>,
    /// Taken over from a steer that may have been killed while it changed something.
    adopted: bool,
    /// Listeners of slots that are to be known as soon as the slots are in force.
    to_know: Vec<(u64, u32)>,
}

/// Why a worker could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its listener could not be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// Its listener is in another socket map.
    #[error("the listener of process {pid} is in another program's socket map already")]
    Busy {
        /// The worker's process.
        pid: u32,
    },
    /// It isn't a member of the group yet, or not any more.
    #[error("the listener of process {pid} isn't in a group")]
    NotListening {
        /// The worker's process.
        pid: u32,
    },
    /// A map refused for another reason.
    #[error("failed to add the listener of process {pid} to the group's maps")]
    Map {
        /// The worker's process.
        pid: u32,
        /// The map's reason.
        #[source]
        source: MapError,
    },
}

impl Group {
    /// Makes the maps and loads the program of a new group. Nothing is attached yet.
    pub fn create(
        kernel: &Kernel,
        pins: &Pins,
        host: &mut Host,
        place: Place,
        key: GroupKey,
        migrates: bool,
        rules: Rules,
    ) -> anyhow::Result<Self> {
        let id = host.free_group()?;
        let dir = pins.group(place.port, id);
        let unfinished = pins.unfinished_group(place.port, id);
        remove_tree(&dir)?;
        remove_tree(&unfinished)?;
        make_dir(&unfinished)?;
        let mut group = Self::load(kernel, pins, place, id, unfinished, migrates)?;
        group.table.config = GroupConfig {
            key,
            group: id,
            joins_seen: GroupConfig::PARTIAL,
            program_id: group.program_id,
            migrates: u32::from(migrates),
            ..GroupConfig::zeroed()
        };
        group.configure(rules);
        group.table.write_config()?;
        fs::rename(&group.dir, &dir)
            .with_context(|| format!("failed to make {}", dir.display()))?;
        group.dir = dir;
        host.set_group(id, &group.dir)?;
        Ok(group)
    }

    /// Takes over a group that an earlier steer left pinned. The program is loaded anew; it takes
    /// the place of the former one at the next attach, without a gap. Its rules stay where none are
    /// given.
    pub fn adopt(
        kernel: &Kernel,
        pins: &Pins,
        host: &mut Host,
        place: Place,
        id: u32,
        migrates: bool,
        rules: Option<Rules>,
    ) -> anyhow::Result<Self> {
        let dir = pins.group(place.port, id);
        let mut group = Self::load(kernel, pins, place, id, dir, migrates)?;
        if let Some(rules) = rules {
            group.configure(rules);
        }
        group.table.write_config()?;
        host.set_group(id, &group.dir)?;
        group.adopted = true;
        Ok(group)
    }

    /// After a group was taken over, once: makes good what a steer that was killed in between may have
    /// begun only. Of a slot that is live the listener may not be in the socket map yet, and of one
    /// that isn't it may be there still.
    pub fn mend(&mut self, wanted: &[Wanted]) -> Result<(), JoinError> {
        if !std::mem::take(&mut self.adopted) {
            return Ok(());
        }
        for slot in 0..MAX_SLOTS {
            let entry = self.table.slots.get(slot as usize).copied();
            let live = entry.filter(|entry| entry.state == SlotState::Live as u32);
            let Some(entry) = live else {
                // Most are empty.
                drop(self.sockets.clear_index(&slot));
                continue;
            };
            let worker = wanted.iter().find(|worker| worker.cookie == entry.cookie);
            let Some(worker) = worker else {
                continue;
            };
            let listener = take::listener(&worker.owner, worker.cookie)?;
            match self.sockets.set(slot, &listener, 0) {
                // It was there.
                Err(error) if os_error(&error) == Some(libc::EBUSY) => {}
                result => result.map_err(map_error(entry.pid))?,
            }
            self.to_know.push((entry.cookie, slot));
        }
        Ok(())
    }

    fn load(
        kernel: &Kernel,
        pins: &Pins,
        place: Place,
        id: u32,
        dir: PathBuf,
        migrates: bool,
    ) -> anyhow::Result<Self> {
        let constants = Constants {
            attachment: place.attachment,
            port: u32::from(place.port.port),
            ..Constants::default()
        };
        let own = (dir.as_path(), &names::GROUP_MAPS[..]);
        let (name, kind) = if migrates {
            (
                names::PROGRAM_MIGRATE,
                SkReuseportAttachType::SelectOrMigrate,
            )
        } else {
            (names::PROGRAM_SELECT, SkReuseportAttachType::Select)
        };
        let mut ebpf = kernel.load(constants, &pins.host(), Some(own))?;
        let program: &mut SkReuseport = ebpf
            .program_mut(name)
            .context("the kernel object has no selecting program")?
            .try_into()?;
        program
            .load()
            .map_err(|error| verifier::failure(name, error))?;
        let program_id = program.info()?.id();
        let pin = dir.join(names::PROGRAM_SELECT);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {}", pin.display()));
            }
            _ => {}
        }
        program
            .pin(&pin)
            .with_context(|| format!("failed to pin {}", pin.display()))?;
        // The rest of the object, with a descriptor for each of its maps, is done with.
        let program = SkReuseport::from_pin(&pin, kind)?;
        let logger = if log::log_enabled!(log::Level::Debug) {
            Some(EbpfLogger::init(&mut ebpf).context("failed to read the programs' log")?)
        } else {
            None
        };
        Ok(Self {
            id,
            table: Table::open(&dir)?,
            program_id,
            migrates,
            place,
            sockets: open(&dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?,
            dir,
            program,
            logger,
            adopted: false,
            to_know: Vec::new(),
        })
    }

    /// The log of this group's program, once, where events are logged at all.
    pub fn take_logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        self.logger.take()
    }

    /// Attaches the program to the group that a member is in, in the place of `former`.
    pub fn attach(&mut self, holder: &Holder, cookie: u64, former: u32) -> anyhow::Result<()> {
        let listener = take::listener(holder, cookie)?;
        // Whenever this is interrupted, what is attached is one of the two that are written down.
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

    /// Whether a program is this group's: this steer's, or one that an earlier steer left attached.
    pub fn is_program(&self, id: u32) -> bool {
        id == self.program_id || self.table.config.is_program(id)
    }

    /// How many slots are live.
    pub fn live(&self) -> usize {
        let slots = self.table.slots.iter();
        slots
            .filter(|slot| slot.state == SlotState::Live as u32)
            .count()
    }

    /// Puts rules into the configuration; in force with the next commit.
    pub fn configure(&mut self, rules: Rules) {
        let config = &mut self.table.config;
        config.policy = rules.policy as u32;
        config.eject_after = rules.eject_after.as_nanos() as u64;
        config.sticky_v4 = rules.sticky_v4;
        config.sticky_v6 = rules.sticky_v6;
    }

    /// Whether the table has a live slot of this process.
    pub fn serves(&self, pid: u32) -> bool {
        let mut slots = self.table.slots.iter();
        slots.any(|slot| slot.pid == pid && slot.state == SlotState::Live as u32)
    }

    /// The process of each live slot, and the tag of a connection of its.
    pub fn tags(&self) -> impl Iterator<Item = (u32, Tag)> {
        (0..)
            .zip(&self.table.slots)
            .filter(|(_, slot)| slot.state == SlotState::Live as u32)
            .map(|(index, slot)| (slot.pid, self.tag(index, slot.generation, Tag::BORN)))
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

    /// Carries out one step of a plan. The counts of `Join` begin at zero.
    pub fn apply(&mut self, host: &mut Host, step: &Step) -> Result<(), JoinError> {
        match step {
            Step::Leave { slot } => {
                let mut entry = self.table.slots[*slot as usize];
                entry.state = SlotState::Gone as u32;
                entry.sock = 0;
                entry.waiters = 0;
                self.table
                    .write_slot(*slot, entry)
                    .map_err(map_error(entry.pid))?;
                // It stays known until the slot is given away: connections of its may still migrate.
                // The kernel has emptied it itself where the listener is closed.
                drop(self.sockets.clear_index(slot));
                Ok(())
            }
            Step::Refresh { slot, worker } => {
                let entry = entry(worker, &self.table.slots[*slot as usize]);
                self.table
                    .write_slot(*slot, entry)
                    .map_err(map_error(entry.pid))
            }
            Step::Join { slot, worker } => self.join(host, *slot, worker),
            Step::Surplus { .. } => Ok(()),
        }
    }

    fn join(&mut self, host: &mut Host, slot: u32, worker: &Wanted) -> Result<(), JoinError> {
        let pid = worker.owner.pid;
        let listener = take::listener(&worker.owner, worker.cookie)?;
        let previous = self.table.slots.get(slot as usize);
        let previous = previous.copied().unwrap_or(Slot::zeroed());
        let mut fresh = Slot {
            generation: next_generation(previous.generation),
            weight: 1,
            inverse_weight: inverse_weight(1),
            flags: 0,
            ..entry(worker, &previous)
        };
        self.table.forget(previous.cookie);
        self.table
            .reset_counters(slot, fresh.generation)
            .map_err(map_error(pid))?;
        // Tagged before it can be selected, so that no connection is born uncounted.
        let tag = self.tag(slot, fresh.generation, Tag::UNCOUNTED);
        host.tag(&listener, tag).map_err(map_error(pid))?;
        self.table.write_slot(slot, fresh).map_err(map_error(pid))?;
        if let Err(error) = self.sockets.set(slot, &listener, 0) {
            fresh.state = SlotState::Gone as u32;
            self.table.write_slot(slot, fresh).map_err(map_error(pid))?;
            return Err(match os_error(&error) {
                Some(libc::EBUSY) => JoinError::Busy { pid },
                Some(libc::EINVAL) => JoinError::NotListening { pid },
                _ => map_error(pid)(error),
            });
        }
        self.to_know.push((worker.cookie, slot));
        Ok(())
    }

    /// Puts the slots in force.
    ///
    /// `joins_seen` is the tracker's count up to which every member is known; `unsteered` of them
    /// steer doesn't have.
    pub fn commit(&mut self, joins_seen: u64, unsteered: u32) -> anyhow::Result<()> {
        self.table.config.unsteered = unsteered;
        self.table.config.joins_seen = if unsteered == 0 {
            joins_seen
        } else {
            GroupConfig::PARTIAL
        };
        self.table.commit()?;
        // Not before: a listener that is known and has no turn gets nothing.
        for (cookie, slot) in self.to_know.drain(..) {
            self.table.know(cookie, slot)?;
        }
        Ok(())
    }
}

fn entry(worker: &Wanted, previous: &Slot) -> Slot {
    Slot {
        cookie: worker.cookie,
        sock: worker.sock,
        state: SlotState::Live as u32,
        pid: worker.owner.pid,
        comm: comm(&worker.owner.comm),
        fd: worker.owner.fd,
        waiters: worker.waiters,
        ..*previous
    }
}

/// Never 0, and never one that a connection of an earlier group with the same number may still
/// carry in its tag: the first one of a slot is taken from the clock.
fn next_generation(previous: u32) -> u32 {
    let first = || {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        (clock.tv_sec as u32)
            .wrapping_mul(1000)
            .wrapping_add((clock.tv_nsec / 1_000_000) as u32)
    };
    let next = if previous == 0 {
        first()
    } else {
        previous.wrapping_add(1)
    };
    next.max(1)
}

fn map_error(pid: u32) -> impl Fn(MapError) -> JoinError {
    move |source| JoinError::Map { pid, source }
}

fn os_error(error: &MapError) -> Option<i32> {
    let MapError::SyscallError(error) = error else {
        return None;
    };
    error.io_error.raw_os_error()
}
