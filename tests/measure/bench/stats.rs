//! The kernel's statistics of its BPF programs: how often each ran, and for how long.

use std::{ops::Sub, os::fd::OwnedFd};

use anyhow::Context as _;
use aya::{
    maps::MapInfo,
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use steer_common::names::{
    MAP_ATTACHMENTS, MAP_TAGS, PROGRAM_MIGRATE, PROGRAM_READS, PROGRAM_SELECT, PROGRAM_TRACK,
};
use steer_user::state::{bpffs, pins::Pins};

/// Has the kernel take statistics of every program for as long as what this returns is kept.
///
/// Minimum kernel version: 5.8.
pub(crate) fn on() -> anyhow::Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("failed to turn the kernel's BPF statistics on")
}

/// The runs of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// How many.
    pub(crate) count: u64,
    /// Nanoseconds, all together.
    pub(crate) nanoseconds: u64,
}

impl Runs {
    /// Nanoseconds a run, none without a run.
    pub(crate) fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.nanoseconds as f64 / self.count as f64)
    }
}

impl Sub for Runs {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            count: self.count - earlier.count,
            nanoseconds: self.nanoseconds - earlier.nanoseconds,
        }
    }
}

/// The runs so far of the program with an id.
pub(crate) fn runs(id: u32) -> anyhow::Result<Runs> {
    loaded_programs()
        // One that is unloaded meanwhile is an error, and somebody else's.
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .map(|program| Runs {
            count: program.run_count(),
            nanoseconds: program.run_time().as_nanos() as u64,
        })
        .with_context(|| format!("program {id} isn't loaded any more"))
}

/// The ids of steer's programs for the one port that it steers in this mount namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steers {
    /// Of the program that selects.
    pub(crate) select: u32,
    /// Of the tracker.
    pub(crate) track: u32,
    /// Of the program that follows what workers read, which an older steer doesn't have.
    pub(crate) reads: Option<u32>,
}

impl Steers {
    /// Finds them by maps that they share: another steer on this machine has others.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let root = bpffs::existing_root()?.context("steer has pinned nothing")?;
        let map = |name: &str| {
            let map = Pins::new(&root).host().join(name);
            let info = MapInfo::from_pin(&map);
            let info = info.with_context(|| format!("failed to open {}", map.display()))?;
            anyhow::Ok(info.id())
        };
        let attachments = map(MAP_ATTACHMENTS)?;
        let tags = map(MAP_TAGS)?;
        let find = |name: &str, map: u32| {
            loaded_programs()
                .filter_map(Result::ok)
                .find(|program| {
                    let maps = program.map_ids().ok().flatten();
                    program.name_as_str() == Some(name)
                        && maps.is_some_and(|maps| maps.contains(&map))
                })
                .map(|program| program.id())
                .with_context(|| format!("steer has loaded no program {name}"))
        };
        Ok(Self {
            // Where the kernel migrates soundly it is the other one of the two.
            select: find(PROGRAM_MIGRATE, attachments)
                .or_else(|_| find(PROGRAM_SELECT, attachments))?,
            track: find(PROGRAM_TRACK, attachments)?,
            reads: find(PROGRAM_READS, tags).ok(),
        })
    }
}
