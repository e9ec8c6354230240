//! What a steer of an earlier version, whose maps have another layout, has left of a port.
//!
//! Its socket map can't be taken over, and a listener is in one such map only. So the new steer
//! prepares everything, empties the old map, and attaches its program over the old one. In
//! between, the old program finds no listener and leaves the choice to the kernel's hash. Then
//! what is left of the old steer goes. Its tracker goes with the last port of that layout.

mod v4;

use std::{fs, io, os::fd::RawFd, path::Path};

use anyhow::Context as _;
use aya::maps::{Map, MapData, ReusePortSockArray};
use steer_common::{
    limits::MAX_WEIGHT,
    names::{self, LAYOUT},
    slot::flags,
};

use crate::{
    kernel::{
        bpf_sys::{clear_inner_map, inner_map},
        loading::open,
    },
    output::exit::{Exit, Fail},
    state::{
        host::HostLock,
        lock::{Holder, Lock, LockError, holder},
        pins::{Pins, remove_tree},
        table::Table,
    },
    steering::{detach::detach, group::Rules},
    survey::{members::Members, port::Port},
};

/// What commands have set in a group, and the ids of the programs that may be attached to it.
#[derive(Clone, Debug)]
struct Settings {
    rules: Rules,
    programs: [u32; 2],
    workers: Vec<Worker>,
}

/// What commands have set of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Worker {
    cookie: u64,
    weight: u32,
    flags: u32,
}

/// One group of the older steer.
pub struct OlderGroup {
    id: u32,
    settings: Settings,
    /// Id of the map of its counters.
    counters: u32,
    sockets: ReusePortSockArray<MapData>,
}

/// What is left of a port that a steer of an earlier version had, and that nobody follows any
/// more.
pub struct Older {
    layout: u64,
    pins: Pins,
    port: Port,
    groups: Vec<OlderGroup>,
    /// The port's lock of the older layout. Nothing is done with it: it is held as long as this
    /// value lives.
    _lock: Lock,
}

impl Older {
    /// Takes what an earlier version has left of the port. Its steer must have ended, or this
    /// process must have been that steer: then `passed` is the descriptor by which the former
    /// program has passed on its lock.
    ///
    /// # Errors
    /// [`Exit::Held`] if a steer of an earlier version follows the port, or if steer can't read
    /// the layout of the port's maps.
    pub fn take(pins: &Pins, port: Port, passed: Option<RawFd>) -> anyhow::Result<Option<Self>> {
        let others = pins.other_layouts(port);
        let others = others.context("failed to list what is pinned")?;
        let unknown = others.iter().find(|(layout, _)| *layout != v4::LAYOUT);
        if let Some((layout, _)) = unknown {
            return Err(unreadable(port, *layout).into());
        }
        let Some((layout, pins)) = others.into_iter().next() else {
            return Ok(None);
        };
        let dir = pins.attachment(port);
        let lock = match passed.and_then(|passed| Lock::passed(&dir, passed)) {
            Some(lock) => lock,
            None => Lock::acquire(&dir).map_err(|error| held(port, error))?,
        };
        let edit = Lock::wait(&pins.edit(port))?;
        pins.remove_unfinished(port)?;
        let mut groups = Vec::new();
        for id in pins.groups(port)? {
            let dir = pins.group(port, id);
            let group = OlderGroup::open(id, &dir);
            groups.push(group.with_context(|| format!("failed to read {}", dir.display()))?);
        }
        drop(edit);
        Ok(Some(Self {
            layout,
            pins,
            port,
            groups,
            _lock: lock,
        }))
    }

    /// The group that has this program.
    pub fn group(&self, program: u32) -> Option<&OlderGroup> {
        self.groups.iter().find(|group| group.has(program))
    }

    /// Empties the socket map of the group that has this program. From now on the kernel's hash
    /// chooses, and another map can have the listeners.
    pub fn release(&mut self, program: u32) {
        let group = self.groups.iter_mut().find(|group| group.has(program));
        group.into_iter().for_each(OlderGroup::release);
    }

    /// What steer is about to do, in a line.
    pub fn describe(&self) -> String {
        format!(
            "tcp port {}: taking the place of an earlier version of steer (its maps have layout {}, this one's \
             {LAYOUT}); the kernel's hash chooses for a moment",
            self.port.port, self.layout
        )
    }

    /// Ends what is left of the older steer. If a group has no new program by now, the kernel's
    /// hash chooses there.
    pub fn end(mut self, members: &mut Members) -> anyhow::Result<()> {
        detach(self.port, members, |group| {
            let mut groups = self.groups.iter();
            groups.any(|older| older.has(group.program_id))
        })?;
        for group in &mut self.groups {
            group.release();
        }
        // All layouts share this lock.
        let shared = HostLock::take()?;
        let host = self.pins.host();
        if fs::exists(&host)? {
            if let Some(attachment) = v4::attachment(&host, self.port)? {
                v4::unregister(&host, self.port)?;
                clear_inner_map(&host.join(names::MAP_RINGS), attachment)?;
            }
            for group in &self.groups {
                let groups = host.join(names::MAP_GROUPS);
                // Two steers of that version could have the same number.
                if inner_map(&groups, group.id)? == Some(group.counters) {
                    clear_inner_map(&groups, group.id)?;
                }
            }
        }
        // These are closed before the pins go, so that no map outlives its pin.
        self.groups.clear();
        self.pins.remove_attachment(self.port)?;
        if fs::exists(&host)? && self.pins.attachments()?.is_empty() && !v4::is_used(&host)? {
            // The link goes first. Nobody takes a directory without this link for a whole
            // tracker.
            match fs::remove_file(host.join("link")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            remove_tree(&host)?;
        }
        self.pins.remove_layout_if_empty()?;
        drop(shared);
        Ok(())
    }
}

/// Who follows a port with an earlier version of steer.
pub fn follower(pins: &Pins, port: Port) -> Result<Holder, LockError> {
    let others = pins.other_layouts(port).unwrap_or_default();
    let dirs = others.iter().map(|(_, pins)| pins.attachment(port));
    for dir in dirs {
        let follower = holder(&dir)?;
        if follower != Holder::Nobody {
            return Ok(follower);
        }
    }
    Ok(Holder::Nobody)
}

/// Whether this steer can take the place of one whose maps have this layout.
pub fn can_be_taken_over(layout: u64) -> bool {
    layout == u64::from(LAYOUT) || layout == v4::LAYOUT
}

/// Why this steer can't read or change a port whose maps have this layout.
pub fn describe(port: Port, layout: u64) -> Fail {
    if layout != v4::LAYOUT {
        return unreadable(port, layout);
    }
    let port = port.port;
    let what = format!(
        "tcp port {port} is steered by an earlier version of steer (its maps have layout {layout}, this \
         one's {LAYOUT}): reload that steer (SIGHUP), or stop it and run `steer attach --port {port}`; `steer \
         detach --port {port}` ends it"
    );
    Fail::new(Exit::Held, what)
}

fn unreadable(port: Port, layout: u64) -> Fail {
    let port = port.port;
    let what = format!(
        "tcp port {port} is steered by another version of steer (its maps have layout {layout}, this \
         one's {LAYOUT}), and this one can't take its place: first run that version's `steer detach \
         --port {port}`"
    );
    Fail::new(Exit::Held, what)
}

fn held(port: Port, error: LockError) -> anyhow::Error {
    let LockError::Held { holder, .. } = error else {
        return anyhow::Error::from(error).context("failed to take the port's lock");
    };
    let port = port.port;
    let what = format!(
        "tcp port {port} is already steered by {holder}, an earlier version of steer: reload that one (SIGHUP) or \
         stop it first"
    );
    Fail::new(Exit::Held, what).into()
}

impl OlderGroup {
    fn open(id: u32, dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            id,
            settings: v4::settings(dir)?,
            counters: MapData::from_pin(dir.join(names::MAP_COUNTERS))?
                .info()?
                .id(),
            sockets: open(dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?,
        })
    }

    fn has(&self, program: u32) -> bool {
        program != 0 && self.settings.programs.contains(&program)
    }

    /// The rules that are in force in the group.
    pub fn rules(&self) -> Rules {
        self.settings.rules
    }

    fn release(&mut self) {
        for slot in 0..v4::SLOTS {
            // Most slots are empty already.
            drop(self.sockets.clear_index(&slot));
        }
    }

    /// Gives the workers in a table the weights and flags that commands had set for them, with
    /// effect from the next commit on.
    pub fn hand_on(&self, table: &mut Table) -> anyhow::Result<()> {
        for slot in 0..table.slots.len() {
            let cookie = table.slots[slot].cookie;
            let mut workers = self.settings.workers.iter();
            let Some(worker) = workers.find(|worker| worker.cookie == cookie) else {
                continue;
            };
            let slot = slot as u32;
            table.set_weight(slot, worker.weight.clamp(1, MAX_WEIGHT))?;
            for flag in [flags::DRAINING, flags::STANDBY] {
                table.set_flag(slot, flag, worker.flags & flag != 0)?;
            }
        }
        Ok(())
    }
}
