//! The connections that are open at workers by the kernel's own list, and how steer's counts differ from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt as _,
};

use anyhow::{Context as _, ensure};
use steer_user::{
    survey::port::Port,
    sys::{procfs::socket_inode, sockdiag},
};

use super::{
    model::{Model, State, Unit},
    seen,
};

/// What the kernel has of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    /// Connections of its processes, and those that wait to be accepted.
    all: u64,
    /// Of these, those of processes whose connections steer may count or not.
    uncounted: u64,
}

/// Checks that what steer counts as active is what the kernel lists as established or half closed, for each
/// unit: a process may have several listeners, and a listener connections in several processes.
///
/// # Errors
/// When the two differ, or can't be read.
pub fn check(port: Port, model: &Model) -> anyhow::Result<u64> {
    let snapshot = seen::snapshot(port)?.context("nothing is pinned")?;
    let mut active: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, slot, counters) in snapshot.groups.iter().flat_map(|group| &group.slots) {
        *active.entry(slot.cookie).or_default() += counters.active();
    }
    let mut sum = 0;
    for unit in &model.units {
        let cookies = unit.listeners.iter().map(|listener| listener.cookie);
        let cookies: BTreeSet<u64> = cookies.collect();
        let counts: Vec<u64> = cookies
            .iter()
            .filter_map(|cookie| active.remove(cookie))
            .collect();
        let counted = counts.len() == cookies.len();
        // What steer doesn't have, or had before it went and came back, it doesn't count.
        if !(counted && (unit.is_known() || unit.state == State::Retired)) {
            continue;
        }
        let open = open(port.port, unit, &cookies)?;
        let count: u64 = counts.iter().sum();
        ensure!(
            (open.all - open.uncounted..=open.all).contains(&count),
            "{count} active, but the kernel has {open:?} of {unit:?}"
        );
        sum += count;
    }
    active.retain(|_, active| *active > 0);
    ensure!(
        active.is_empty(),
        "active, but their workers have ended: {active:?}"
    );
    Ok(sum)
}

fn open(port: u16, unit: &Unit, cookies: &BTreeSet<u64>) -> anyhow::Result<Open> {
    let connections = sockdiag::connections(port)?;
    let inodes: BTreeSet<u64> = connections
        .iter()
        .map(|connection| connection.inode)
        .collect();
    let of = |pids: &BTreeSet<u32>| {
        let mut held: BTreeSet<u64> = BTreeSet::new();
        for pid in pids {
            held.extend(sockets(*pid).intersection(&inodes));
        }
        held.len() as u64
    };
    let serving = unit.listeners.iter().map(|listener| listener.pid);
    let pids: BTreeSet<u32> = serving.chain(unit.former.iter().copied()).collect();
    let waiting = sockdiag::listeners(port)?;
    let waiting = waiting
        .iter()
        .filter(|found| cookies.contains(&found.cookie));
    let waiting: u64 = waiting.map(|found| u64::from(found.accept_queue)).sum();
    Ok(Open {
        all: of(&pids) + waiting,
        uncounted: of(&unit.uncounted.iter().copied().collect()),
    })
}

/// The inodes of the sockets that a process has open: none where it has ended.
fn sockets(pid: u32) -> BTreeSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = descriptors.into_iter().flatten().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter_map(|link| socket_inode(link.as_os_str().as_bytes()))
        .collect()
}
