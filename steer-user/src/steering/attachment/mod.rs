//! One attachment: all steered groups of a port, kept equal to the workers that exist.

mod admit;
mod counting;
mod predecessors;
mod settle;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::RawFd,
};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use steer_common::{config::GroupKey, slot::Tag};

use crate::{
    kernel::{loading::Kernel, object},
    output::{
        exit::{Exit, Fail},
        plural::counted,
        print::message,
    },
    state::{
        host::{Host, PortLock, edit_lock},
        lock::LockError,
        table::Table,
    },
    steering::{
        earlier::Earlier,
        failure::after,
        group::{Group, Place, Rules},
        older::Older,
        stale,
        teardown::teardown,
    },
    survey::{
        address::Bind,
        groups::{Following, FoundGroup, Look, survey},
        members::Members,
        port::Port,
        serving::Memory,
    },
};

/// What `steer attach` was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to steer.
    pub port: Port,
    /// Only these groups.
    pub bind: Option<Bind>,
    /// How to choose among a group's workers.
    pub rules: Rules,
    /// Whether connections that wait on a listener that closes move to other workers.
    pub migrates: bool,
    /// Attach in the place of another program.
    pub replace: bool,
    /// Go on by the rules that an earlier steer left, rather than by these.
    pub resumes: bool,
    /// The descriptor by which that one has passed on the port's lock.
    pub lock: Option<RawFd>,
}

impl Request {
    /// Whether a group of the port is asked for.
    fn asks_for(&self, group: &GroupKey) -> bool {
        self.bind.as_ref().is_none_or(|bind| bind.has(group))
    }
}

/// What a reconciliation leaves open.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Something was in flux: look again very soon.
    pub in_flux: bool,
    /// Something failed: try again later.
    pub failed: bool,
    /// The cookies of listeners of which it can't be told yet who serves them, or how: look again now
    /// and then.
    pub open: BTreeSet<u64>,
    /// The processes that have the listeners.
    pub processes: BTreeSet<u32>,
    /// The cookies of all listeners on the port.
    pub found: BTreeSet<u64>,
    /// How many groups of those that were asked for have listeners.
    pub groups: usize,
    /// What is waited for, where listeners are there and none is steered.
    pub awaited: Option<String>,
}

/// A running attachment.
pub struct Attachment {
    request: Request,
    place: Place,
    kernel: Kernel,
    host: Host,
    members: Members,
    groups: Vec<Group>,
    /// Groups that an earlier steer left and that aren't asked for.
    unwanted: Vec<u32>,
    following: Following,
    said: BTreeSet<String>,
    /// What failed with each group when that was last tried.
    failures: BTreeMap<GroupKey, String>,
    /// What is waited for, where none of the listeners is steered.
    awaited: Option<String>,
    /// Groups that another program is attached to.
    displaced: BTreeSet<GroupKey>,
    /// What a steer of an earlier version has left, until its place is taken.
    older: Option<Older>,
    /// Programs of an earlier steer whose places were taken, or were to be.
    succeeded: Vec<u32>,
    /// The tracker's count of joins before the last survey: one that it doesn't contain yet is
    /// noticed by the kernel program.
    joins: u64,
    /// Events that had found the ring buffer full when that was last looked at.
    lost_events: u64,
    /// Workers that joined since connections from before were last looked for: process, and tag of a
    /// connection.
    joined: Vec<(u32, Tag)>,
    /// When this steer began to steer, in clock ticks since boot: as processes' starts are told.
    began: u64,
    /// Looks for these.
    earlier: Option<Earlier>,
    /// Whether all workers are still to be looked at once more.
    look_again: bool,
    lock: PortLock,
}

impl Attachment {
    /// Takes the port's lock and prepares everything but the groups, or takes over those that an
    /// earlier steer left pinned. The ring buffer carries the port's events from now on.
    pub fn open(request: Request, kernel: Kernel) -> anyhow::Result<(Self, RingBuf<MapData>)> {
        let port = request.port;
        object::bytes()?;
        let lock = follow(port, request.lock)?;
        stale::remove(port);
        let prepared = Older::take(lock.pins(), port, request.lock)
            .and_then(|older| Self::prepare(request, kernel, &lock, older));
        match prepared {
            Ok((unlocked, ring)) => Ok((unlocked(lock), ring)),
            Err(error) => Err(after(error, lock.give_up())),
        }
    }

    fn prepare(
        request: Request,
        kernel: Kernel,
        lock: &PortLock,
        older: Option<Older>,
    ) -> anyhow::Result<(impl FnOnce(PortLock) -> Self + use<>, RingBuf<MapData>)> {
        let (port, pins) = (lock.port(), lock.pins());
        let (held, mut host) = Host::open_or_create(&kernel)?;
        let attachment = host.register(&held, port)?;
        // Before there is a ring: from then on every event that it loses makes a difference.
        let lost_events = host.state(attachment)?.lost_events;
        let ring = host.new_ring(attachment)?;
        drop(held);
        let place = Place { port, attachment };
        let members = Members::load(&kernel, &pins.host(), port.port)?;
        let edit = edit_lock(pins, port)?;
        pins.remove_unfinished(port)?;
        let mut groups = Vec::new();
        let mut unwanted = Vec::new();
        for (id, table) in Table::of_port(pins, port)? {
            let Request {
                migrates, resumes, ..
            } = request;
            if !request.asks_for(&table.config.key) {
                unwanted.push(id);
                continue;
            }
            let rules = (!resumes).then_some(request.rules);
            let group = Group::adopt(&kernel, pins, &mut host, place, id, migrates, rules)?;
            groups.push(group);
        }
        drop(edit);
        let mut following = Following::default();
        for (_, slot) in groups.iter().flat_map(Group::live_slots) {
            following.remember(slot.cookie, Memory::of_slot(slot.pid, slot.waiters));
        }
        let with_lock = move |lock| Self {
            request,
            place,
            kernel,
            host,
            members,
            groups,
            unwanted,
            following,
            said: BTreeSet::new(),
            failures: BTreeMap::new(),
            awaited: None,
            displaced: BTreeSet::new(),
            older,
            succeeded: Vec::new(),
            joins: 0,
            lost_events,
            joined: Vec::new(),
            began: ticks(),
            earlier: None,
            look_again: true,
            lock,
        };
        Ok((with_lock, ring))
    }

    /// Whether an earlier steer left groups to take over.
    pub fn is_adopted(&self) -> bool {
        !self.groups.is_empty() || !self.unwanted.is_empty()
    }

    /// Steers what is there, or fails where something is there and none of it can be steered.
    pub fn begin(&mut self) -> anyhow::Result<Outlook> {
        if let Some(older) = &self.older {
            message(&older.describe());
        }
        self.began = ticks();
        let found = self.survey(Look::Everywhere)?;
        let mut refusal = None;
        let mut admitted = false;
        for group in found
            .iter()
            .filter(|group| self.request.asks_for(&group.key))
        {
            match self.admit(group) {
                Ok(()) => admitted = true,
                Err(fail) if refusal.is_none() => refusal = Some(fail),
                Err(fail) => message(&format!("warning: {fail}")),
            }
        }
        match refusal {
            // One that goes on doesn't end for what it has lived with.
            Some(fail) if !admitted && !self.request.resumes => return Err(fail.into()),
            Some(fail) => self.say(format!("warning: {fail}")),
            None => {}
        }
        let first = !self.request.resumes;
        let outlook = self.settle(&found, &BTreeSet::new(), first)?;
        self.end_older();
        self.count_all();
        self.hand_back();
        self.kernel.forget_types();
        Ok(outlook)
    }

    /// Makes the maps equal to the workers that exist.
    ///
    /// `expected` has the cookies of listeners that an event announced: as long as one of them
    /// isn't found, something is in flux.
    pub fn reconcile(
        &mut self,
        look: Look<'_>,
        expected: &BTreeSet<u64>,
    ) -> anyhow::Result<Outlook> {
        let found = self.survey(look)?;
        let outlook = self.settle(&found, expected, false)?;
        if matches!(look, Look::Everywhere) && std::mem::take(&mut self.look_again) {
            self.count_all();
        } else {
            self.count_accepted();
        }
        self.kernel.forget_types();
        Ok(outlook)
    }

    /// Whether events have found the ring buffer full since this was last asked.
    pub fn has_lost_events(&mut self) -> bool {
        // A count that can't be read tells nothing new.
        let state = self.host.state(self.place.attachment);
        let lost = state.map_or(self.lost_events, |state| state.lost_events);
        std::mem::replace(&mut self.lost_events, lost) != lost
    }

    /// Whether the pins are still there: whoever unmounts the bpffs takes them away.
    pub fn is_pinned(&self) -> bool {
        self.host.is_pinned() && self.lock.is_current()
    }

    /// Whether any worker is steered.
    pub fn steers(&self) -> bool {
        self.groups.iter().any(|group| group.live() > 0)
    }

    /// How it stands, in a line.
    pub fn summary(&self) -> String {
        let port = self.place.port.port;
        match self.groups.iter().map(Group::live).sum() {
            0 => format!("waiting for a listener on tcp port {port}"),
            workers => {
                let workers: usize = workers;
                format!(
                    "steering tcp port {port}: {}",
                    counted(workers as u64, "worker")
                )
            }
        }
    }

    /// What was waited for when that was last looked at.
    pub fn awaited(&self) -> &str {
        self.awaited.as_deref().unwrap_or("nothing listens there")
    }

    /// The logs of programs that nobody has taken yet.
    pub fn take_loggers(&mut self) -> Vec<EbpfLogger<&'static dyn log::Log>> {
        self.groups
            .iter_mut()
            .filter_map(Group::take_logger)
            .collect()
    }

    /// Hands the groups back to the kernel's hash and removes every trace.
    pub fn detach(mut self) -> anyhow::Result<()> {
        let mut own = self.succeeded;
        own.extend(self.groups.iter().map(|group| group.program_id));
        // The maps must be closed, or the tracker would outlive its pins.
        self.groups.clear();
        let is_own = |group: &FoundGroup| own.contains(&group.program_id);
        teardown(self.lock, self.host, self.members, is_own)
    }

    /// The port's lock.
    pub fn lock(&self) -> &PortLock {
        &self.lock
    }

    /// Leaves everything steering as it is.
    pub fn keep(self) {}

    fn survey(&mut self, look: Look<'_>) -> anyhow::Result<Vec<FoundGroup>> {
        self.joins = self.host.state(self.place.attachment)?.joins;
        survey(
            self.request.port,
            &mut self.members,
            &mut self.following,
            look,
        )
    }
}

/// The lock of a port, by which this process alone follows it.
fn follow(port: Port, passed: Option<RawFd>) -> anyhow::Result<PortLock> {
    if let Some(passed) = passed
        && let Some(lock) = PortLock::passed(port, passed)?
    {
        return Ok(lock);
    }
    PortLock::follow(port).map_err(|error| match error.downcast_ref() {
        Some(LockError::Held { holder, .. }) => {
            let port = port.port;
            let what = format!(
                "tcp port {port} is already steered by {holder}; stop that steer or run `steer detach \
                 --port {port}` first"
            );
            Fail::new(Exit::Held, what).into()
        }
        _ => error,
    })
}

/// Now, in clock ticks since boot.
fn ticks() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let per_second = clock_ticks_per_second();
    now.tv_sec as u64 * per_second + now.tv_nsec as u64 * per_second / 1_000_000_000
}
