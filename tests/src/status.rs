//! The contract of `steer status --json`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// What `steer attach` set up, one a port.
    pub attachments: Vec<Attachment>,
}

/// What one `steer attach` set up.
#[derive(Clone, Debug, Deserialize)]
pub struct Attachment {
    /// Port that is steered.
    pub port: u16,
    /// `tcp`.
    pub proto: String,
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// `rr` or `least`.
    pub policy: String,
    /// The process that follows the groups, if there is one.
    pub loader_pid: Option<u32>,
    /// All groups of the port.
    pub groups: Vec<Group>,
    /// What else listens on the port; `None` where that can't be seen.
    pub others: Option<Vec<Other>>,
}

/// Listeners on the port that are in none of the groups.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Other {
    /// Local address and port.
    pub address: String,
    /// Network device that the listeners are bound to.
    pub device: Option<String>,
    /// Owner of the listeners.
    pub uid: u32,
    /// How many they are.
    pub listeners: u32,
}

/// How long jobs take.
#[derive(Clone, Debug, Deserialize)]
pub struct Jobs {
    /// Jobs that were learned from.
    pub learned: u64,
    /// Of these, those that are remembered.
    pub remembered: u64,
    /// Their mean.
    pub mean_ms: Option<f64>,
    /// Half of them took no longer.
    pub p50_ms: Option<f64>,
    /// Nine of ten took no longer.
    pub p90_ms: Option<f64>,
    /// 99 of a hundred took no longer.
    pub p99_ms: Option<f64>,
}

/// One group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// Local address and port.
    pub address: String,
    /// Network device that the listeners are bound to.
    pub device: Option<String>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Whether it leaves IPv4 alone.
    pub v6only: bool,
    /// Owner of the listeners.
    pub uid: u32,
    /// How long the jobs of its workers take.
    pub jobs: Jobs,
    /// Whether steer's program is the group's; `None` where that can't be seen.
    pub attached: Option<bool>,
    /// SYNs for which steer chose a worker.
    pub selected: u64,
    /// Cookie ACKs for which steer chose a worker.
    pub cookie_acks: u64,
    /// Whether connections that wait on a listener that closes move to other workers.
    pub migrates: bool,
    /// How many did.
    pub migrated: u64,
    /// SYNs left to the kernel's hash.
    pub hashed: u64,
    /// The same by reason.
    pub hashed_why: BTreeMap<String, u64>,
    /// Members of the group that steer doesn't have.
    pub unsteered: u64,
    /// Why, as far as that can be seen.
    pub unsteered_why: Vec<String>,
    /// Members that get nothing.
    pub excluded: u64,
    /// Whether event loops count.
    pub event_loops: bool,
    /// All workers, by slot.
    pub workers: Vec<Worker>,
}

/// One worker.
#[derive(Clone, Debug, Deserialize)]
pub struct Worker {
    /// Its index in the maps.
    pub slot: u32,
    /// Its process.
    pub pid: u32,
    /// Its command, as the kernel has it.
    pub comm: String,
    /// Its descriptor of the listener.
    pub fd: i32,
    /// Cookie of its listener.
    pub cookie: u64,
    /// `live`, `gone` and others.
    pub state: String,
    /// Its share relative to the others'.
    pub weight: u32,
    /// SYNs for which it was chosen.
    pub selected: u64,
    /// The same as a part of the group's.
    pub share: f64,
    /// Connections born on its listener.
    pub connections: u64,
    /// Connections that it hasn't closed.
    pub active: u64,
    /// Connections that it hasn't accepted; `None` for a listener that is gone.
    pub accept_queue: Option<u64>,
    /// Limit of its accept queue, likewise.
    pub backlog: Option<u64>,
    /// Whether it can be told if its event loop waits.
    pub event_loop: bool,
    /// What is undecided about who serves it.
    pub undecided: Option<String>,
}

impl Attachment {
    /// The live workers of all groups.
    pub fn live(&self) -> impl Iterator<Item = &Worker> {
        self.groups
            .iter()
            .flat_map(|group| &group.workers)
            .filter(|worker| worker.state == "live")
    }

    /// Whether these are `workers` live workers, none of which has an open connection.
    pub fn is_idle(&self, workers: usize) -> bool {
        self.live().count() == workers && self.live().all(|worker| worker.active == 0)
    }

    /// The group at an address, such as `127.0.0.1:3000`, that is v6only or not.
    pub fn group(&self, address: &str, v6only: bool) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.address == address && group.v6only == v6only)
    }

    /// Members of all groups that steer doesn't have.
    pub fn unsteered(&self) -> u64 {
        self.groups.iter().map(|group| group.unsteered).sum()
    }
}
