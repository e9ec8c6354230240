//! Programs of steer that go on choosing without a steer and without their pins.
//!
//! A program stays attached as long as its group has listeners. Its pins end with their bpffs:
//! with one that is unmounted, or with one of a mount namespace (a container, a service) whose
//! last process was killed. The tracker ends with its pins, so nobody can follow such a program
//! any more. Whoever may list the host's programs finds the program, and can take its place or
//! end it.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, Map, MapData, MapInfo, ReusePortSockArray},
    programs::{ProgramInfo, loaded_programs},
};
use steer_common::{
    config::{GroupConfig, GroupKey},
    limits::MAX_SLOTS,
    names,
};

use crate::survey::{address, groups::FoundGroup};

/// How long the kernel may take to end a tracker whose pins are gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often to look meanwhile.
const PERIOD: Duration = Duration::from_millis(20);

/// How long the kernel may take to free a program that was detached.
const DETACHED: Duration = Duration::from_millis(200);

/// A loaded program of steer.
pub struct Loaded {
    /// The program's id.
    pub program_id: u32,
    /// The group that the program chooses for.
    pub key: GroupKey,
    /// Whether the program's tracker runs. If it does, the program has pins or a steer somewhere,
    /// seen from here or not. Or the tracker serves several programs, and this one alone has lost
    /// its pins.
    pub is_tracked: bool,
    maps: Vec<u32>,
    sockets: ReusePortSockArray<MapData>,
}

/// The wanted programs of which no pins are seen: the abandoned ones, and those that have another
/// tracker than `tracker`, which is the one that is pinned here.
///
/// The kernel lets nobody list programs without CAP_SYS_ADMIN. Without it there are none here.
/// Minimum kernel version: Linux 4.15.
pub fn unpinned(tracker: Option<u32>, is_wanted: impl Fn(&Loaded) -> bool) -> Vec<Loaded> {
    let unpinned = || {
        let mut all = loaded();
        all.retain(|program| {
            let is_pinned = tracker.is_some_and(|tracker| program.is_of_tracker(tracker));
            !(program.is_tracked && is_pinned) && is_wanted(program)
        });
        all
    };
    if unpinned().is_empty() {
        return Vec::new();
    }
    // A program that was just detached still exists for a moment, and so may its tracker.
    thread::sleep(DETACHED);
    unpinned()
}

/// The program that is attached to a group, abandoned or not.
pub fn of(group: &FoundGroup) -> Option<Loaded> {
    if group.program_id == 0 {
        return None;
    }
    loaded().into_iter().find(|program| program.is_of(group))
}

/// The wanted programs. If all of them are abandoned, returns at once. If the tracker of one
/// runs, waits for up to a second, because that tracker may just be ending.
pub fn among(wanted: impl Fn(&Loaded) -> bool) -> Vec<Loaded> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = loaded();
        found.retain(&wanted);
        if found.iter().all(|program| !program.is_tracked) || Instant::now() > deadline {
            return found;
        }
        thread::sleep(PERIOD);
    }
}

impl Loaded {
    /// Whether this program is attached to a group.
    pub fn is_of(&self, group: &FoundGroup) -> bool {
        self.program_id == group.program_id && self.key == group.key
    }

    /// Whether the program's tracker is the one with this [`crate::state::host::Host::id`]. If a
    /// steer holds the port's lock and finds no pins of such a program, it knows that nobody
    /// follows the program.
    pub fn is_of_tracker(&self, id: u32) -> bool {
        self.maps.contains(&id)
    }

    /// Takes the listeners out of the program's socket map. From now on the program leaves every
    /// connection to the kernel's hash, and another map can have the listeners.
    pub fn release(mut self) {
        for slot in 0..MAX_SLOTS {
            // Most slots are empty already.
            drop(self.sockets.clear_index(&slot));
        }
    }

    /// What to say of a program of which no pins are seen, and what to do about it. The text goes
    /// after the name of the protocol.
    pub fn describe(&self) -> String {
        let port = self.key.port;
        if self.is_tracked {
            return format!(
                "{} is steered by eBPF program {} of a steer whose pins aren't in this bpffs: that steer runs in \
                 another mount namespace (`ip netns exec`, a container), or has lost its bpffs; with its pid, \
                 `nsenter -t PID -m -n steer status` looks there",
                address::shown(&self.key),
                self.program_id
            );
        }
        format!(
            "{} is steered by eBPF program {} of a steer that is gone, and so are its pins: `steer attach --port \
             {port}` takes the program's place, `steer detach --port {port}` ends it",
            address::shown(&self.key),
            self.program_id
        )
    }
}

fn loaded() -> Vec<Loaded> {
    let mut tracked = BTreeSet::new();
    let mut programs = Vec::new();
    // A program that can't be looked at is gone by now, or this user may not see it.
    for program in loaded_programs().filter_map(Result::ok) {
        match program.name_as_str() {
            Some(names::PROGRAM_TRACK) => tracked.extend(maps(&program)),
            Some(names::PROGRAM_SELECT | names::PROGRAM_MIGRATE) => programs.push(program),
            _ => {}
        }
    }
    programs
        .iter()
        .filter_map(|program| inspect(program, &tracked))
        .collect()
}

fn maps(program: &ProgramInfo) -> Vec<u32> {
    program.map_ids().ok().flatten().unwrap_or_default()
}

/// Looks at a program that has one of steer's names. None if its maps aren't steer's. `tracked`
/// has the maps of all trackers.
fn inspect(program: &ProgramInfo, tracked: &BTreeSet<u32>) -> Option<Loaded> {
    let maps = maps(program);
    let named = |name: &str| {
        let is_named =
            |id: &&u32| MapInfo::from_id(**id).is_ok_and(|map| map.name_as_str() == Some(name));
        MapData::from_id(*maps.iter().find(is_named)?).ok()
    };
    let config: Array<_, GroupConfig> = Map::Array(named(names::MAP_CONFIG)?).try_into().ok()?;
    let config = config.get(&0, 0).ok()?;
    if !config.is_program(program.id()) {
        return None;
    }
    let sockets = Map::ReusePortSockArray(named(names::MAP_SOCKETS)?);
    Some(Loaded {
        program_id: program.id(),
        key: config.key,
        is_tracked: maps.iter().any(|map| tracked.contains(map)),
        maps,
        sockets: sockets.try_into().ok()?,
    })
}
