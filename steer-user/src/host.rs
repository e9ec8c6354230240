//! What all attachments of a host share: the tracker and its maps, pinned once.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, RingBuf, SkStorage},
    programs::{
        BtfTracePoint, Iter,
        links::{FdLink, PinnedLink},
    },
};
use steer_common::{
    limits::{EVENT_BYTES, MAX_ATTACHMENTS, MAX_GROUPS},
    names,
    registry::{AttachmentState, PortKey},
    slot::Tag,
};

use crate::{
    bpf_sys::clear_inner_map,
    loading::{Constants, Kernel, open},
    lock::{self, Lock},
    pins::{Pins, Port, make_dir, remove_tree},
    verifier,
};

const IPPROTO_TCP: u32 = 6;
/// `BPF_MAP_TYPE_RINGBUF`
const MAP_TYPE_RINGBUF: u32 = 27;
/// Pin of the tracker's link, which keeps it attached when no steer runs.
const LINK: &str = "link";

/// Pin of the link of the program that makes up for what the tracker misses.
const LINK_DESTROYED: &str = "link_destroyed";

/// Pin of the link of the program that counts what interrupts the tracker.
const LINK_AGAIN: &str = "link_again";

/// The maps that all attachments share.
pub struct Host {
    dir: PathBuf,
    tags: SkStorage<MapData, Tag>,
    ports: HashMap<MapData, PortKey, u32>,
    attachments: Array<MapData, AttachmentState>,
    groups: ArrayOfMaps<MapData>,
    rings: ArrayOfMaps<MapData>,
    /// Tells these maps from those that another steer pins in the same place.
    id: u32,
    /// Keep the tracker attached as long as this is open, should the pins go away.
    _links: [PinnedLink; 3],
}

impl Host {
    /// Opens the shared maps, or creates them and attaches the tracker where nobody has yet.
    ///
    /// The caller holds the lock of the host's pins.
    pub fn open_or_create(pins: &Pins, kernel: &Kernel) -> anyhow::Result<Self> {
        let dir = pins.host();
        if fs::exists(dir.join(LINK))? {
            return Self::open(pins);
        }
        // What is there without a link was left half-made.
        remove_tree(&dir)?;
        make_dir(&dir)?;
        let mut ebpf = kernel.load(Constants::default(), &dir, None)?;
        pin_recount(&mut ebpf, kernel, &dir)?;
        // The one whose pin tells that all is there comes last.
        for (name, tracepoint, link) in [
            (names::PROGRAM_TRACK_AGAIN, names::TRACEPOINT, LINK_AGAIN),
            (
                names::PROGRAM_DESTROYED,
                names::TRACEPOINT_DESTROYED,
                LINK_DESTROYED,
            ),
            (names::PROGRAM_TRACK, names::TRACEPOINT, LINK),
        ] {
            let program: &mut BtfTracePoint = ebpf
                .program_mut(name)
                .with_context(|| format!("the kernel object has no program {name}"))?
                .try_into()?;
            program
                .load(tracepoint, &kernel.btf)
                .map_err(|error| verifier::failure(name, error))?;
            let attached = program
                .attach()
                .context("failed to attach the connection tracker")?;
            let attached: FdLink = program.take_link(attached)?.into();
            let path = dir.join(link);
            attached
                .pin(&path)
                .with_context(|| format!("failed to pin {}", path.display()))?;
        }
        Self::open(pins)
    }

    /// Opens the shared maps of a host that has an attachment.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let dir = pins.host();
        Ok(Self {
            tags: open(&dir, names::MAP_TAGS, Map::SkStorage)?,
            ports: open(&dir, names::MAP_PORTS, Map::HashMap)?,
            attachments: open(&dir, names::MAP_ATTACHMENTS, Map::Array)?,
            groups: open(&dir, names::MAP_GROUPS, Map::ArrayOfMaps)?,
            rings: open(&dir, names::MAP_RINGS, Map::ArrayOfMaps)?,
            id: id(&dir)?,
            _links: [
                PinnedLink::from_pin(dir.join(LINK_AGAIN))?,
                PinnedLink::from_pin(dir.join(LINK_DESTROYED))?,
                PinnedLink::from_pin(dir.join(LINK))?,
            ],
            dir,
        })
    }

    /// The id of one of the maps, which the tracker and every program that it serves have.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the pins are still there, and these maps' own.
    pub fn is_pinned(&self) -> bool {
        self.dir.join(LINK).exists() && id(&self.dir).is_ok_and(|id| id == self.id)
    }

    /// The index of a port's attachment: the one it has, or a free one.
    pub fn register(&mut self, port: Port) -> anyhow::Result<u32> {
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
            .with_context(|| format!("this host has {MAX_ATTACHMENTS} attachments already"))?;
        self.attachments.set(index, AttachmentState::default(), 0)?;
        self.ports.insert(key, index, 0)?;
        Ok(index)
    }

    /// Forgets a port's attachment.
    pub fn unregister(&mut self, port: Port) -> anyhow::Result<()> {
        let key = key(port);
        if let Ok(index) = self.ports.get(&key, 0) {
            self.ports.remove(&key)?;
            clear_inner_map(&self.dir.join(names::MAP_RINGS), index)?;
        }
        Ok(())
    }

    /// A new ring buffer for the events of an attachment, in the place of any former one.
    pub fn new_ring(&mut self, attachment: u32) -> anyhow::Result<RingBuf<MapData>> {
        let object = aya_obj::Map::new_from_params(MAP_TYPE_RINGBUF, 0, 0, EVENT_BYTES, 0);
        let ring = MapData::create(object, "EVENTS", None)
            .context("failed to create the ring buffer for events")?;
        self.rings.set(attachment, &ring, 0)?;
        Ok(RingBuf::try_from(Map::RingBuf(ring))?)
    }

    /// How many listeners have appeared on a port that has an attachment.
    pub fn joins(&self, port: Port) -> Option<u64> {
        let attachment = self.ports.get(&key(port), 0).ok()?;
        Some(self.state(attachment).ok()?.joins)
    }

    /// What the tracker has noted for an attachment.
    pub fn state(&self, attachment: u32) -> anyhow::Result<AttachmentState> {
        Ok(self.attachments.get(&attachment, 0)?)
    }

    /// A number that no group of the host has.
    pub fn free_group(&self) -> anyhow::Result<u32> {
        (0..MAX_GROUPS)
            .find(|group| matches!(self.groups.get(group, 0), Err(MapError::KeyNotFound)))
            .with_context(|| format!("this host has {MAX_GROUPS} groups already"))
    }

    /// Makes the counters that are pinned in a group's directory known to the tracker.
    pub fn set_group(&mut self, group: u32, dir: &Path) -> anyhow::Result<()> {
        let counters = MapData::from_pin(dir.join(names::MAP_COUNTERS))?;
        Ok(self.groups.set(group, &counters, 0)?)
    }

    /// Takes a group's counters away from the tracker.
    pub fn clear_group(&mut self, group: u32) -> anyhow::Result<()> {
        clear_inner_map(&self.dir.join(names::MAP_GROUPS), group)
    }

    /// Tags a listener, and with it every connection that is born on it from now on.
    pub fn tag(&mut self, listener: &OwnedFd, tag: Tag) -> Result<(), MapError> {
        self.tags.insert(listener, tag, 0)
    }
}

/// Pins the iterator over open connections: whoever reads the pin has it run in the network namespace that
/// it is opened in. Linux 5.8.
fn pin_recount(ebpf: &mut Ebpf, kernel: &Kernel, dir: &Path) -> anyhow::Result<()> {
    let program: &mut Iter = ebpf
        .program_mut(names::PROGRAM_RECOUNT)
        .context("the kernel object has no iterator over connections")?
        .try_into()?;
    program
        .load(names::ITERATOR, &kernel.btf)
        .map_err(|error| verifier::failure(names::PROGRAM_RECOUNT, error))?;
    let link = program.attach()?;
    let link: FdLink = program.take_link(link)?.try_into()?;
    let path = dir.join(names::PROGRAM_RECOUNT);
    link.pin(&path)
        .with_context(|| format!("failed to pin {}", path.display()))?;
    Ok(())
}

/// The id of one of the maps that are pinned in a directory. Linux 4.13.
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

/// The lock under which the shared maps are made and removed. Held for moments only, so it is
/// waited for.
pub fn lock() -> anyhow::Result<Lock> {
    lock::wait(&format!("v{}-host", names::LAYOUT))
        .context("failed to take the lock of the host's maps")
}

/// Forgets an attachment that has no groups, and says whether there was one: it could not be made, or
/// waited for its first listener.
pub fn forget_unless_pinned(pins: &Pins, port: Port) -> anyhow::Result<bool> {
    if !fs::exists(pins.host().join(LINK))? || !pins.groups(port)?.is_empty() {
        return Ok(false);
    }
    let lock = lock()?;
    let mut host = Host::open(pins)?;
    let registered = host.ports.get(&key(port), 0).is_ok();
    host.unregister(port)?;
    lock.release()?;
    Ok(registered)
}

/// Removes the tracker and the shared maps where no attachment needs them.
pub fn remove_if_unused(pins: &Pins) -> anyhow::Result<()> {
    let lock = lock()?;
    if fs::exists(pins.host())? && pins.attachments()?.is_empty() {
        let unused = match Host::open(pins) {
            Ok(host) => host.ports.iter().next().is_none(),
            // Left half-made.
            Err(_) => true,
        };
        if unused {
            // First: without it nobody takes the rest for whole.
            match fs::remove_file(pins.host().join(LINK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            remove_tree(&pins.host())
                .with_context(|| format!("failed to remove {}", pins.host().display()))?;
        }
    }
    pins.remove_layout_if_empty()?;
    Ok(lock.release()?)
}
