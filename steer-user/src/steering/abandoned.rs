//! Programs of steer that choose on without a steer and without its pins.
//!
//! A program stays attached as long as its group has listeners. Its pins end with their bpffs: one that is
//! unmounted, or one of a mount namespace (a container, a service) whose last process was killed. The
//! tracker ends with them, so nobody can follow such a program any more. Who may list the host's programs
//! finds it, and can take its place or end it.

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

/// How often it is asked meanwhile.
const PERIOD: Duration = Duration::from_millis(20);

/// How long it takes to free a program that was detached.
const DETACHED: Duration = Duration::from_millis(200);

/// A program of steer that is loaded.
pub struct Loaded {
    /// Its id.
    pub program_id: u32,
    /// The group that it chooses for.
    pub key: GroupKey,
    /// Whether its tracker runs. Then it has pins or a steer somewhere, seen from here or not, or is one
    /// of several that a tracker serves and the only one to have lost its pins.
    pub is_tracked: bool,
    maps: Vec<u32>,
    sockets: ReusePortSockArray<MapData>,
}

/// Those of the wanted ones that no pins are seen of: the abandoned, and those whose tracker isn't `tracker`, the
/// one that is pinned here. None without CAP_SYS_ADMIN, which the kernel wants of who lists programs.
/// Linux 4.15.
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
    // One that was just detached is still there for a moment, and so may its tracker be.
    thread::sleep(DETACHED);
    unpinned()
}

/// The one that is attached to a group, abandoned or not.
pub fn of(group: &FoundGroup) -> Option<Loaded> {
    if group.program_id == 0 {
        return None;
    }
    loaded().into_iter().find(|program| program.is_of(group))
}

/// Those of some groups that are abandoned, or else those that are not. A tracker that is just ending is
/// waited for.
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
    /// Whether it is what is attached to a group.
    pub fn is_of(&self, group: &FoundGroup) -> bool {
        self.program_id == group.program_id && self.key == group.key
    }

    /// Whether its tracker is this one. Who holds the port's lock and finds none of its pins then knows
    /// that nobody follows it.
    ///
    /// `id` is that of [`crate::state::host::Host::id`].
    pub fn is_of_tracker(&self, id: u32) -> bool {
        self.maps.contains(&id)
    }

    /// Takes the listeners out of its socket map: it leaves every connection to the kernel's hash from
    /// now on, and another map can have them.
    pub fn release(mut self) {
        for slot in 0..MAX_SLOTS {
            // Most are empty.
            drop(self.sockets.clear_index(&slot));
        }
    }

    /// What one is that no pins are seen of, and what to do, after the name of the protocol.
    pub fn describe(&self) -> String {
        let port = self.key.port;
        if self.is_tracked {
            return format!(
                "{} is steered by eBPF program {} of a steer whose pins aren't in this bpffs: it runs in another \
                 mount namespace (`ip netns exec`, a container), or lost its bpffs; `nsenter -t PID -m -n steer \
                 status` looks there",
                address::shown(&self.key),
                self.program_id
            );
        }
        format!(
            "{} is steered by eBPF program {}, whose steer is gone and its pins too: `steer attach --port \
             {port}` takes its place, `steer detach --port {port}` ends it",
            address::shown(&self.key),
            self.program_id
        )
    }
}

fn loaded() -> Vec<Loaded> {
    let mut tracked = BTreeSet::new();
    let mut programs = Vec::new();
    // One that can't be looked at is gone by now, or isn't to be seen by this user.
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

/// What a program of steer's names is, if its maps are steer's too. `tracked` has the maps of trackers.
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
