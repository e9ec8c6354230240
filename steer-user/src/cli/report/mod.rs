//! What `steer status` says: the document of `--json`, and the table that is made of it.

mod table;

use std::collections::BTreeMap;

use serde::Serialize;
use steer_common::{
    config::{GroupKey, contains},
    counters::Hashed,
    learn::Learned,
    policy::Policy,
    slot::{
        Slot, SlotState,
        flags::{DRAINING, NOT_SEEN, SHARED, STANDBY},
    },
};

pub use self::table::table;
use crate::{
    output::escape,
    state::{
        lock::Holder,
        snapshot::{GroupSnapshot, Snapshot},
    },
    survey::address,
    sys::sockdiag::Listener,
};

const UNDECIDED_SHARED: &str = "several processes poll its listener, as in the middle of a reload";
const UNDECIDED_NOT_SEEN: &str = "not seen waiting for a connection yet: it may be busy";

/// The document of `steer status --json`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// All attachments.
    pub attachments: Vec<AttachmentStatus>,
}

/// One attachment.
#[derive(Debug, Serialize)]
pub struct AttachmentStatus {
    /// Local port.
    pub port: u16,
    /// `tcp`.
    pub proto: &'static str,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Name of the policy.
    pub policy: &'static str,
    /// The process of the steer that follows the port. Null if nobody follows it, or if that
    /// steer is in another pid namespace.
    pub loader_pid: Option<u32>,
    /// Whether a steer follows the port.
    pub followed: bool,
    /// The groups of the attachment.
    pub groups: Vec<GroupStatus>,
    /// What else listens on the port. Null if that can't be seen from here.
    pub others: Option<Vec<OtherStatus>>,
}

/// Listeners on the port that are in none of the attachment's groups. They have no
/// `SO_REUSEPORT`, or are of another address, device or user than was asked for, or are in a
/// group that can't be steered.
#[derive(Debug, Serialize)]
pub struct OtherStatus {
    /// Local address and port.
    pub address: String,
    /// The network device that the sockets are bound to, null for none. This is its name, or its
    /// number if the device is in another network namespace or gone.
    pub device: Option<String>,
    /// Owner of the sockets.
    pub uid: u32,
    /// How many listeners have the same address and owner.
    pub listeners: u32,
}

/// One group.
#[derive(Debug, Serialize)]
pub struct GroupStatus {
    /// Local address and port.
    pub address: String,
    /// The network device that the sockets are bound to, null for none. This is its name, or its
    /// number if the device is in another network namespace or gone.
    pub device: Option<String>,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Whether an IPv6 group leaves IPv4 to others.
    pub v6only: bool,
    /// Owner of the sockets.
    pub uid: u32,
    /// Whether steer's program is attached. Null if that can't be seen from here.
    pub attached: Option<bool>,
    /// SYNs for which steer chose the worker.
    pub selected: u64,
    /// ACKs without a request socket (SYN cookies) for which steer chose the worker.
    pub cookie_acks: u64,
    /// Whether the connections that wait on a closing listener move to other workers.
    pub migrates: bool,
    /// How many connections moved to other workers.
    pub migrated: u64,
    /// SYNs left to the kernel's hash.
    pub hashed: u64,
    /// How many of these were left to the hash for each reason.
    pub hashed_why: BTreeMap<&'static str, u64>,
    /// Members of the group that steer doesn't have. They keep the share that the hash gives
    /// them.
    pub unsteered: u32,
    /// Why these members aren't steered, as far as that can be seen from here.
    pub unsteered_why: Vec<String>,
    /// Members that get nothing, because certainly nobody serves them.
    pub excluded: u32,
    /// Whether `least` and `p2c` go by event loops. They do if steer knows the event loop of
    /// every live worker.
    pub event_loops: bool,
    /// How long the jobs of the group's workers take. `least` and `p2c` go by that.
    pub jobs: JobsStatus,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
}

/// What a group has learned of its jobs. A job is what keeps an event loop from everything else:
/// from when a worker reads a request until it sends the answer.
#[derive(Debug, Serialize)]
pub struct JobsStatus {
    /// How many jobs the group has learned from, ever.
    pub learned: u64,
    /// How many of the last jobs are remembered. All fields below are about these.
    pub remembered: u64,
    /// The mean duration of these jobs in milliseconds. Null if there are none.
    pub mean_ms: Option<f64>,
    /// The duration that half of these jobs didn't exceed, in milliseconds, to within a fifth.
    /// Null if there are none.
    pub p50_ms: Option<f64>,
    /// The duration that 90 % of these jobs didn't exceed, likewise.
    pub p90_ms: Option<f64>,
    /// The duration that 99 % of these jobs didn't exceed, likewise.
    pub p99_ms: Option<f64>,
}

impl JobsStatus {
    fn of(learned: &Learned) -> Self {
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let quantile = |percent| learned.quantile(percent).map(ms);
        Self {
            learned: learned.jobs,
            remembered: learned.remembered(),
            mean_ms: learned.mean().map(ms),
            p50_ms: quantile(50),
            p90_ms: quantile(90),
            p99_ms: quantile(99),
        }
    }
}

/// One worker.
#[derive(Debug, Serialize)]
pub struct WorkerStatus {
    /// The worker's slot.
    pub slot: u32,
    /// The process that serves the listener.
    pub pid: u32,
    /// The name of that process, escaped.
    pub comm: String,
    /// That process's descriptor of the listener. It tells the listeners of one process apart.
    pub fd: i32,
    /// The listener's socket cookie.
    pub cookie: u64,
    /// `live`, `draining`, `standby` or `ejected`. Or `gone`, if the worker has left and
    /// connections of it are still open.
    pub state: &'static str,
    /// The worker's weight.
    pub weight: u32,
    /// SYNs for which the worker was selected.
    pub selected: u64,
    /// The worker's part of all selections of the listed workers, from 0 to 1.
    pub share: f64,
    /// Connections born on the worker's listener.
    pub connections: u64,
    /// How many of these connections the worker has not closed.
    pub active: u64,
    /// Connections that wait to be accepted. Null if that can't be seen from here.
    pub accept_queue: Option<u32>,
    /// The limit of the accept queue. Null if that can't be seen from here.
    pub backlog: Option<u32>,
    /// Whether steer can tell if the worker's event loop waits. It can't if several epoll
    /// instances watch the listener, if threads block on it besides an epoll instance, or if an
    /// `io_uring` waits for it. See [`GroupStatus::event_loops`] for what follows.
    pub event_loop: bool,
    /// What is undecided about who serves the listener. Null if nothing is.
    pub undecided: Option<&'static str>,
}

/// What can be seen only from within the attachment's network namespace.
#[derive(Debug, Default)]
pub struct Seen {
    /// The listeners on the port, each with the key of its group.
    pub listeners: Vec<(GroupKey, Listener)>,
    /// Ids of the programs that are attached to groups. None if that can't be seen.
    pub programs: Option<Vec<u32>>,
    /// Why listeners aren't steered, by the listener's cookie.
    pub unsteered: BTreeMap<u64, String>,
}

/// The listeners of a group that steer doesn't have.
pub fn unsteered<'a>(
    group: &'a GroupSnapshot,
    listeners: &'a [(GroupKey, Listener)],
) -> impl Iterator<Item = &'a Listener> {
    let members = listeners.iter();
    let members = members.filter(|(key, _)| *key == group.config.key);
    members.map(|(_, listener)| listener).filter(|listener| {
        let mut slots = group.slots.iter().map(|(_, slot, _)| slot);
        let mut has =
            |slot: &Slot| slot.state == SlotState::Live as u32 && slot.cookie == listener.cookie;
        !group.excluded.contains(&listener.cookie) && !slots.any(&mut has)
    })
}

/// Makes the document of `steer status --json`.
pub fn status<'a>(snapshots: &[Snapshot], seen: impl Fn(&Snapshot) -> Option<&'a Seen>) -> Status {
    let attachments = snapshots
        .iter()
        .map(|snapshot| {
            let seen = seen(snapshot);
            let policy = snapshot.groups.first().map(|group| group.config.policy);
            AttachmentStatus {
                port: snapshot.port.port,
                proto: "tcp",
                netns_cookie: snapshot.port.netns_cookie,
                policy: policy.map_or("none", |policy| Policy::from_raw(policy).name()),
                loader_pid: match snapshot.loader {
                    Holder::Process(pid) => Some(pid),
                    Holder::Nobody | Holder::Unseen => None,
                },
                followed: snapshot.loader != Holder::Nobody,
                groups: snapshot
                    .groups
                    .iter()
                    .map(|group| group_status(group, seen))
                    .collect(),
                others: seen.map(|seen| others(snapshot, seen)),
            }
        })
        .collect();
    Status { attachments }
}

fn others(snapshot: &Snapshot, seen: &Seen) -> Vec<OtherStatus> {
    let mut others: BTreeMap<GroupKey, u32> = BTreeMap::new();
    for (key, _) in &seen.listeners {
        if !snapshot.groups.iter().any(|group| group.config.key == *key) {
            *others.entry(*key).or_default() += 1;
        }
    }
    others
        .into_iter()
        .map(|(key, listeners)| OtherStatus {
            address: address::local(&key).to_string(),
            device: address::device(&key),
            uid: key.uid,
            listeners,
        })
        .collect()
}

fn group_status(group: &GroupSnapshot, seen: Option<&Seen>) -> GroupStatus {
    let listener = |cookie: u64| {
        let mut listeners = seen?.listeners.iter().map(|(_, listener)| listener);
        listeners.find(|listener| listener.cookie == cookie)
    };
    // If there is no loader, nobody updates the table when a worker leaves.
    let is_live = |slot: &Slot| {
        slot.state == SlotState::Live as u32 && (seen.is_none() || listener(slot.cookie).is_some())
    };
    let listeners = seen.map_or(&[][..], |seen| &seen.listeners);
    let unsteered: Vec<&Listener> = unsteered(group, listeners).collect();
    let why = |listener: &&Listener| seen?.unsteered.get(&listener.cookie).cloned();
    let unsteered_why = unsteered.iter().filter_map(why).collect();
    let unsteered = match seen {
        Some(_) => unsteered.len() as u32,
        None => group.config.unsteered,
    };
    let listed = group
        .slots
        .iter()
        .filter(|(_, slot, counters)| is_live(slot) || counters.active() > 0);
    let all: f64 = listed
        .clone()
        .map(|(_, _, counters)| counters.selected as f64)
        .sum();
    let workers = listed
        .map(|(index, slot, counters)| {
            let listener = listener(slot.cookie);
            WorkerStatus {
                slot: *index,
                pid: slot.pid,
                comm: escape::foreign(comm(slot)),
                fd: slot.fd,
                cookie: slot.cookie,
                state: match slot.flags {
                    _ if !is_live(slot) => "gone",
                    flags if flags & DRAINING != 0 => "draining",
                    _ if contains(&group.counters.ejected, *index) => "ejected",
                    flags if flags & STANDBY != 0 => "standby",
                    _ => "live",
                },
                weight: slot.weight,
                selected: counters.selected,
                share: if counters.selected == 0 {
                    0.0
                } else {
                    counters.selected as f64 / all
                },
                connections: counters.connections,
                active: counters.active(),
                accept_queue: listener.map(|listener| listener.accept_queue),
                backlog: listener.map(|listener| listener.backlog),
                event_loop: slot.waiters != 0,
                undecided: match slot.flags {
                    _ if !is_live(slot) => None,
                    flags if flags & SHARED != 0 => Some(UNDECIDED_SHARED),
                    flags if flags & NOT_SEEN != 0 => Some(UNDECIDED_NOT_SEEN),
                    _ => None,
                },
            }
        })
        .collect();
    let config = &group.config;
    let sum = |count: fn(&steer_common::counters::Counters) -> u64| -> u64 {
        total(group.slots.iter().map(|(_, _, counters)| count(counters)))
    };
    GroupStatus {
        address: address::local(&config.key).to_string(),
        device: address::device(&config.key),
        family: if config.key.family == libc::AF_INET as u32 {
            "ipv4"
        } else {
            "ipv6"
        },
        v6only: config.key.v6only != 0,
        uid: config.key.uid,
        attached: seen
            .and_then(|seen| seen.programs.as_ref())
            .map(|programs| programs.iter().any(|id| config.is_program(*id))),
        selected: sum(|counters| counters.selected).saturating_add(config.retired_selected),
        cookie_acks: sum(|counters| counters.cookie_acks),
        migrates: config.migrates != 0,
        migrated: sum(|counters| counters.migrated)
            .saturating_add(u64::from(config.retired_migrated)),
        hashed: total(group.counters.hashed.iter().copied()),
        hashed_why: Hashed::ALL
            .into_iter()
            .map(|why| (why.name(), group.counters.hashed[why as usize]))
            .collect(),
        unsteered,
        unsteered_why,
        excluded: group.excluded.len() as u32,
        event_loops: config.loops_known != 0,
        jobs: JobsStatus::of(&group.learned),
        workers,
    }
}

/// Adds up counts. A map may hold any numbers, so the sum stops at the largest.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn comm(slot: &Slot) -> &[u8] {
    let end = slot.comm.iter().position(|byte| *byte == 0);
    &slot.comm[..end.unwrap_or(slot.comm.len())]
}
