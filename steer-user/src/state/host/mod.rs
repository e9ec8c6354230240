//! What all attachments of a host share: the tracker and its maps, which are pinned once, and the
//! locks.

mod lock;
mod make;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use aya::{
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, RingBuf, SkStorage},
    programs::links::PinnedLink,
};
use steer_common::{
    limits::{EVENT_BYTES, MAX_ATTACHMENTS, MAX_GROUPS},
    names,
    registry::{AttachmentState, IPPROTO_TCP, PortKey},
    slot::Tag,
};

pub use self::lock::{HostLock, PortLock, edit_lock, follower};
use crate::{
    kernel::{
        bpf_sys::{clear_inner_map, inner_map, open_read_only},
        loading::open,
    },
    state::pins::Pins,
    survey::port::Port,
};

/// `BPF_MAP_TYPE_RINGBUF`
const MAP_TYPE_RINGBUF: u32 = 27;
/// Pin of the link of `track`, which keeps the program attached when no steer runs.
const LINK: &str = "link";

/// Pin of the link of `destroyed`, which makes up for what `track` misses.
const LINK_DESTROYED: &str = "link_destroyed";

/// Pin of the link of `track_again`, which counts what `track` misses because it is running.
const LINK_AGAIN: &str = "link_again";

/// Pin of the link of `reads`, which follows what workers read.
const LINK_READS: &str = "link_reads";

/// The maps that all attachments share.
pub struct Host {
    dir: PathBuf,
    tags: SkStorage<MapData, Tag>,
    ports: HashMap<MapData, PortKey, u32>,
    attachments: Array<MapData, AttachmentState>,
    groups: ArrayOfMaps<MapData>,
    learning: ArrayOfMaps<MapData>,
    rings: ArrayOfMaps<MapData>,
    /// Tells these maps from maps that another steer pins in the same place.
    id: u32,
    /// These keep the tracker attached while this value lives, even if the pins go away.
    _links: [PinnedLink; 4],
}

impl Host {
    /// Opens the shared maps. They exist if the host has an attachment.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let dir = pins.host();
        Ok(Self {
            tags: open(&dir, names::MAP_TAGS, Map::SkStorage)?,
            ports: open(&dir, names::MAP_PORTS, Map::HashMap)?,
            attachments: open(&dir, names::MAP_ATTACHMENTS, Map::Array)?,
            groups: open(&dir, names::MAP_GROUPS, Map::ArrayOfMaps)?,
            learning: open(&dir, names::MAP_LEARNING, Map::ArrayOfMaps)?,
            rings: open(&dir, names::MAP_RINGS, Map::ArrayOfMaps)?,
            id: id(&dir)?,
            _links: [
                PinnedLink::from_pin(dir.join(LINK_READS))?,
                PinnedLink::from_pin(dir.join(LINK_AGAIN))?,
                PinnedLink::from_pin(dir.join(LINK_DESTROYED))?,
                PinnedLink::from_pin(dir.join(LINK))?,
            ],
            dir,
        })
    }

    /// The id of the map ATTACHMENTS, which the tracker and all programs of its groups share.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the pins still exist and are those of these maps.
    pub fn is_pinned(&self) -> bool {
        self.dir.join(LINK).exists() && id(&self.dir).is_ok_and(|id| id == self.id)
    }

    /// The index of a port's attachment. If the port has none yet, a free index becomes its own.
    pub fn register(&mut self, _lock: &HostLock, port: Port) -> anyhow::Result<u32> {
        let key = key(port);
        if let Ok(index) = self.ports.get(&key, 0) {
            return Ok(index);
        }
        let mut used = Vec::new();
        for entry in &self.ports {
            used.push(entry?.1);
        }
        let index = (0..MAX_ATTACHMENTS)
            .find(|index| !used.contains(index))
            .with_context(|| {
                format!(
                    "steer already steers {MAX_ATTACHMENTS} ports on this host, and takes no more"
                )
            })?;
        self.attachments.set(index, AttachmentState::default(), 0)?;
        self.ports.insert(key, index, 0)?;
        Ok(index)
    }

    /// Forgets a port's attachment. The caller has the port's lock, and the lock is current.
    pub fn unregister(&mut self, _lock: &HostLock, port: Port) -> anyhow::Result<()> {
        let key = key(port);
        if let Ok(index) = self.ports.get(&key, 0) {
            self.ports.remove(&key)?;
            clear_inner_map(&self.dir.join(names::MAP_RINGS), index)?;
        }
        Ok(())
    }

    /// Makes a ring buffer for the events of an attachment, in place of the former one.
    pub fn new_ring(&mut self, attachment: u32) -> anyhow::Result<RingBuf<MapData>> {
        let object = aya_obj::Map::new_from_params(MAP_TYPE_RINGBUF, 0, 0, EVENT_BYTES, 0);
        let ring = MapData::create(object, "EVENTS", None)
            .context("failed to create the ring buffer for events")?;
        self.rings.set(attachment, &ring, 0)?;
        Ok(RingBuf::try_from(Map::RingBuf(ring))?)
    }

    /// How many listeners have appeared on a port. None if the port has no attachment.
    pub fn joins(&self, port: Port) -> Option<u64> {
        let attachment = self.ports.get(&key(port), 0).ok()?;
        Some(self.state(attachment).ok()?.joins)
    }

    /// What the tracker has counted for an attachment.
    pub fn state(&self, attachment: u32) -> anyhow::Result<AttachmentState> {
        Ok(self.attachments.get(&attachment, 0)?)
    }

    /// A group number that is free: neither the tracker nor any directory of pins has it.
    pub fn free_group(&self, lock: &HostLock) -> anyhow::Result<u32> {
        let mut pinned = Vec::new();
        for port in lock.pins().attachments()? {
            pinned.extend(lock.pins().groups(port)?);
        }
        (0..MAX_GROUPS)
            .filter(|group| !pinned.contains(group))
            .find(|group| matches!(self.groups.get(group, 0), Err(MapError::KeyNotFound)))
            .with_context(|| {
                format!("steer already steers {MAX_GROUPS} groups on this host, and takes no more")
            })
    }

    /// Tells the tracker which counters and which memory of jobs a group has: those pinned in the
    /// group's directory. The group's number must be free, or this group's already.
    pub fn set_group(&mut self, _lock: &HostLock, group: u32, dir: &Path) -> anyhow::Result<()> {
        let counters = MapData::from_pin(dir.join(names::MAP_COUNTERS))?;
        let known = self.counters_of(group)?;
        ensure!(
            known.is_none_or(|known| counters.info().is_ok_and(|info| info.id() == known)),
            "failed to count the connections of the group in {}: another group has its number; remove that directory",
            dir.display()
        );
        let learned = MapData::from_pin(dir.join(names::MAP_LEARNED))?;
        self.learning.set(group, &learned, 0)?;
        Ok(self.groups.set(group, &counters, 0)?)
    }

    /// Takes a group's counters and memory of jobs away from the tracker, if the counters pinned
    /// in the group's directory are what the tracker has under this number.
    pub fn clear_group(&mut self, _lock: &HostLock, group: u32, dir: &Path) -> anyhow::Result<()> {
        let counters = MapData::from_pin(dir.join(names::MAP_COUNTERS))?;
        if self.counters_of(group)? == Some(counters.info()?.id()) {
            clear_inner_map(&self.dir.join(names::MAP_GROUPS), group)?;
            clear_inner_map(&self.dir.join(names::MAP_LEARNING), group)?;
        }
        Ok(())
    }

    /// The id of the map in which the tracker counts a group's connections.
    fn counters_of(&self, group: u32) -> anyhow::Result<Option<u32>> {
        inner_map(&self.dir.join(names::MAP_GROUPS), group)
    }

    /// Tags a listener. Every connection that is born on it from now on has the tag, too.
    pub fn tag(&mut self, listener: &OwnedFd, tag: Tag) -> Result<(), MapError> {
        self.tags.insert(listener, tag, 0)
    }
}

/// The [`Host::id`] of what is pinned. None if nothing is pinned, or if this process may not look
/// at it.
pub fn tracker(pins: &Pins) -> Option<u32> {
    let path = pins.host().join(names::MAP_ATTACHMENTS);
    let map = MapData::from_fd(open_read_only(&path).ok()?).ok()?;
    Some(map.info().ok()?.id())
}

/// The id of the pinned map ATTACHMENTS in a directory. Minimum kernel version: Linux 4.13.
fn id(dir: &Path) -> Result<u32, MapError> {
    let map = MapData::from_pin(dir.join(names::MAP_ATTACHMENTS))?;
    Ok(map.info()?.id())
}

fn key(port: Port) -> PortKey {
    PortKey {
        netns_cookie: port.netns_cookie,
        port: u32::from(port.port),
        protocol: IPPROTO_TCP,
    }
}
