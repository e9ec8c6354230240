//! One steered group: its program, its maps, and the changes that keep them equal to the workers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aya::{
    maps::{Array, HashMap, Map, MapData, MapError, ReusePortSockArray},
    programs::{SkReuseport, sk_reuseport::SkReuseportAttachType},
};
use aya_log::EbpfLogger;
use bytemuck::Zeroable as _;
use steer_common::{
    config::{EXCLUDED, GroupConfig, GroupKey},
    counters::Counters,
    limits::{MAX_SLOTS, MAX_TURNS},
    names,
    policy::Policy,
    slot::{Slot, SlotState, Tag, inverse_weight},
    turns::{Claim, lay_out},
};

use crate::{
    host::Host,
    loading::{Constants, Kernel, open},
    pins::{Pins, Port, make_dir, remove_tree},
    procfd::Holder,
    slots::{Step, Wanted, comm},
    take::{self, TakeError},
};

/// Where a group belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The attachment's port.
    pub port: Port,
    /// Index of the attachment.
    pub attachment: u32,
}

/// A group that steer steers, or is about to.
pub struct Group {
    /// Its number in the host's map of groups.
    pub id: u32,
    /// What is configured, as the kernel has it.
    pub config: GroupConfig,
    /// The slots up to the last one in use, as the kernel has them.
    pub table: Vec<Slot>,
    /// Id of the program that an earlier steer left attached.
    pub former_program: Option<u32>,
    place: Place,
    dir: PathBuf,
    program: SkReuseport,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    maps: Maps,
}

/// The maps of one group.
struct Maps {
    sockets: ReusePortSockArray<MapData>,
    slots: Array<MapData, Slot>,
    counters: Array<MapData, Counters>,
    config: Array<MapData, GroupConfig>,
    turns: Array<MapData, u32>,
    known: HashMap<MapData, u64, u32>,
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
        policy: Policy,
    ) -> anyhow::Result<Self> {
        let id = host.free_group()?;
        let dir = pins.group(place.port, id);
        let unfinished = pins.unfinished_group(place.port, id);
        remove_tree(&dir)?;
        remove_tree(&unfinished)?;
        make_dir(&unfinished)?;
        let mut group = Self::load(kernel, pins, place, id, unfinished)?;
        group.config = GroupConfig {
            key,
            group: id,
            policy: policy as u32,
            joins_seen: GroupConfig::PARTIAL,
            program_id: group.config.program_id,
            ..GroupConfig::zeroed()
        };
        group.write_config()?;
        fs::rename(&group.dir, &dir)
            .with_context(|| format!("failed to make {}", dir.display()))?;
        group.dir = dir;
        host.set_group(id, &group.dir)?;
        Ok(group)
    }

    /// Takes over a group that an earlier steer left pinned. The program is loaded anew; it takes
    /// the place of the former one at the next attach, without a gap.
    pub fn adopt(
        kernel: &Kernel,
        pins: &Pins,
        host: &mut Host,
        place: Place,
        id: u32,
    ) -> anyhow::Result<Self> {
        let dir = pins.group(place.port, id);
        let mut group = Self::load(kernel, pins, place, id, dir)?;
        let program_id = group.config.program_id;
        group.config = group.maps.config.get(&0, 0)?;
        group.former_program = Some(group.config.program_id);
        group.config.program_id = program_id;
        let mut last = 0;
        let mut table = Vec::with_capacity(MAX_SLOTS as usize);
        for index in 0..MAX_SLOTS {
            let slot = group.maps.slots.get(&index, 0)?;
            if slot.state != SlotState::Free as u32 {
                last = index as usize + 1;
            }
            table.push(slot);
        }
        table.truncate(last);
        group.table = table;
        host.set_group(id, &group.dir)?;
        Ok(group)
    }

    fn load(
        kernel: &Kernel,
        pins: &Pins,
        place: Place,
        id: u32,
        dir: PathBuf,
    ) -> anyhow::Result<Self> {
        let constants = Constants {
            attachment: place.attachment,
            port: u32::from(place.port.port),
        };
        let own = (dir.as_path(), &names::GROUP_MAPS[..]);
        let mut ebpf = kernel.load(constants, &pins.host(), Some(own))?;
        let program: &mut SkReuseport = ebpf
            .program_mut(names::PROGRAM_SELECT)
            .context("the kernel object has no selecting program")?
            .try_into()?;
        program
            .load()
            .context("failed to load the selecting program")?;
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
        let program = SkReuseport::from_pin(&pin, SkReuseportAttachType::Select)?;
        let logger = if log::log_enabled!(log::Level::Debug) {
            Some(EbpfLogger::init(&mut ebpf).context("failed to read the programs' log")?)
        } else {
            None
        };
        Ok(Self {
            id,
            config: GroupConfig {
                program_id,
                ..GroupConfig::zeroed()
            },
            table: Vec::new(),
            former_program: None,
            place,
            maps: Maps::open(&dir)?,
            dir,
            program,
            logger,
        })
    }

    /// The log of this group's program, once, where events are logged at all.
    pub fn take_logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        self.logger.take()
    }

    /// Attaches the program to the group that a member is in, in the place of any other.
    pub fn attach(&mut self, holder: &Holder, cookie: u64) -> anyhow::Result<()> {
        let listener = take::listener(holder, cookie)?;
        self.program
            .attach(&listener)
            .context("failed to attach to the group")?;
        self.former_program = None;
        Ok(())
    }

    /// How many slots are live.
    pub fn live(&self) -> usize {
        let slots = self.table.iter();
        slots
            .filter(|slot| slot.state == SlotState::Live as u32)
            .count()
    }

    /// Whether the table has a live slot of this process.
    pub fn serves(&self, pid: u32) -> bool {
        self.table
            .iter()
            .any(|slot| slot.pid == pid && slot.state == SlotState::Live as u32)
    }

    /// Connections that the worker of a slot has not closed.
    pub fn active(&self, slot: u32) -> u64 {
        // A count that can't be read keeps the slot from being given away.
        self.maps
            .counters
            .get(&slot, 0)
            .map_or(1, |counters| counters.active())
    }

    /// Carries out one step of a plan. The counts of `Join` begin at zero.
    pub fn apply(&mut self, host: &mut Host, step: &Step) -> Result<(), JoinError> {
        match step {
            Step::Leave { slot } => {
                let mut entry = self.table[*slot as usize];
                entry.state = SlotState::Gone as u32;
                entry.sock = 0;
                self.write_slot(*slot, entry)
                    .map_err(map_error(entry.pid))?;
                drop(self.maps.known.remove(&entry.cookie));
                // The kernel has emptied it itself where the listener is closed.
                drop(self.maps.sockets.clear_index(slot));
                Ok(())
            }
            Step::Refresh { slot, worker } => {
                let entry = entry(worker, &self.table[*slot as usize]);
                self.write_slot(*slot, entry).map_err(map_error(entry.pid))
            }
            Step::Join { slot, worker } => self.join(host, *slot, worker),
            Step::Surplus { .. } => Ok(()),
        }
    }

    fn join(&mut self, host: &mut Host, slot: u32, worker: &Wanted) -> Result<(), JoinError> {
        let pid = worker.owner.pid;
        let listener = take::listener(&worker.owner, worker.cookie)?;
        let previous = self
            .table
            .get(slot as usize)
            .copied()
            .unwrap_or(Slot::zeroed());
        let mut fresh = entry(worker, &previous);
        fresh.generation = next_generation(previous.generation);
        fresh.weight = 1;
        fresh.inverse_weight = inverse_weight(1);
        self.retire_counts(slot).map_err(map_error(pid))?;
        self.maps
            .counters
            .set(
                slot,
                Counters {
                    generation: fresh.generation,
                    ..Counters::default()
                },
                0,
            )
            .map_err(map_error(pid))?;
        // Tagged before it can be selected, so that no connection is born uncounted.
        let tag = Tag {
            attachment: self.place.attachment,
            group: self.id,
            slot,
            generation: fresh.generation,
        };
        host.tag(&listener, tag).map_err(map_error(pid))?;
        self.write_slot(slot, fresh).map_err(map_error(pid))?;
        if let Err(error) = self.maps.sockets.set(slot, &listener, 0) {
            fresh.state = SlotState::Gone as u32;
            self.write_slot(slot, fresh).map_err(map_error(pid))?;
            return Err(match os_error(&error) {
                Some(libc::EBUSY) => JoinError::Busy { pid },
                Some(libc::EINVAL) => JoinError::NotListening { pid },
                _ => map_error(pid)(error),
            });
        }
        self.maps
            .known
            .insert(worker.cookie, slot, 0)
            .map_err(map_error(pid))
    }

    /// Keeps the sum of what was counted of a slot's former workers.
    fn retire_counts(&mut self, slot: u32) -> Result<(), MapError> {
        let counters = self.maps.counters.get(&slot, 0)?;
        self.config.retired_selected += counters.selected;
        self.config.retired_connections += counters.connections;
        Ok(())
    }

    /// Gives a listener nothing, because nobody polls it.
    pub fn exclude(&mut self, cookie: u64) -> anyhow::Result<()> {
        Ok(self.maps.known.insert(cookie, EXCLUDED, 0)?)
    }

    /// Forgets excluded listeners that are not in `excluded` any more.
    pub fn forget_excluded(&mut self, excluded: &[u64]) -> anyhow::Result<()> {
        let mut gone = Vec::new();
        for entry in &self.maps.known {
            let (cookie, slot) = entry?;
            if slot == EXCLUDED && !excluded.contains(&cookie) {
                gone.push(cookie);
            }
        }
        for cookie in gone {
            self.maps.known.remove(&cookie)?;
        }
        Ok(())
    }

    /// Lays out the turns of the live workers and puts the whole configuration in force.
    ///
    /// `joins_seen` is the tracker's count up to which every member is known; `unsteered` of them
    /// steer doesn't have.
    pub fn commit(&mut self, joins_seen: u64, unsteered: u32) -> anyhow::Result<()> {
        let claims: Vec<Claim> = (0..)
            .zip(&self.table)
            .filter(|(_, entry)| entry.state == SlotState::Live as u32)
            .map(|(slot, entry)| Claim {
                slot,
                weight: entry.weight,
            })
            .collect();
        let mut taken = vec![0; claims.len()];
        let mut turns = vec![0; MAX_TURNS as usize];
        let count = lay_out(&claims, &mut taken, &mut turns);
        // The half that is not in force.
        let start = if self.config.turns_start == 0 {
            MAX_TURNS
        } else {
            0
        };
        for (index, slot) in (start..).zip(&turns[..count]) {
            self.maps.turns.set(index, slot, 0)?;
        }
        self.config.turns_start = start;
        self.config.turns_len = count as u32;
        self.config.slot_mask = slot_mask(self.table.len());
        self.config.unsteered = unsteered;
        self.config.joins_seen = if unsteered == 0 {
            joins_seen
        } else {
            GroupConfig::PARTIAL
        };
        self.write_config()
    }

    /// Puts another policy in force.
    pub fn set_policy(&mut self, policy: Policy) -> anyhow::Result<()> {
        self.config.policy = policy as u32;
        self.write_config()
    }

    fn write_slot(&mut self, slot: u32, entry: Slot) -> Result<(), MapError> {
        self.maps.slots.set(slot, entry, 0)?;
        let index = slot as usize;
        if index >= self.table.len() {
            self.table.resize(index + 1, Slot::zeroed());
        }
        self.table[index] = entry;
        Ok(())
    }

    fn write_config(&mut self) -> anyhow::Result<()> {
        self.maps
            .config
            .set(0, self.config, 0)
            .context("failed to write the group's configuration")
    }
}

impl Maps {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            sockets: open(dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?,
            slots: open(dir, names::MAP_SLOTS, Map::Array)?,
            counters: open(dir, names::MAP_COUNTERS, Map::Array)?,
            config: open(dir, names::MAP_CONFIG, Map::Array)?,
            turns: open(dir, names::MAP_TURNS, Map::Array)?,
            known: open(dir, names::MAP_KNOWN, Map::HashMap)?,
        })
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

fn slot_mask(slots: usize) -> u32 {
    (slots as u32).next_power_of_two() - 1
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
