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
    /// The port to steer.
    pub port: Port,
    /// Steer only the groups of this address. None for all groups of the port.
    pub bind: Option<Bind>,
    /// How to choose among the workers of a group.
    pub rules: Rules,
    /// Whether the connections that wait on a closing listener move to other workers.
    pub migrates: bool,
    /// Attach even if another program is attached, and take its place.
    pub replace: bool,
    /// Keep the rules that an earlier steer has left, rather than take `rules`.
    pub resumes: bool,
    /// The descriptor by which the former steer has passed on the port's lock.
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
    /// Something was in flux: look again in a moment.
    pub in_flux: bool,
    /// Something failed: try again later.
    pub failed: bool,
    /// The cookies of listeners of which steer doesn't know yet who serves them, or where the
    /// event loop waits. Look again now and then.
    pub open: BTreeSet<u64>,
    /// The processes that hold the listeners.
    pub processes: BTreeSet<u32>,
    /// The cookies of all listeners on the port.
    pub found: BTreeSet<u64>,
    /// How many of the groups that were asked for have listeners.
    pub groups: usize,
    /// What steer waits for, if there are listeners and none of them is steered.
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
    /// Groups that an earlier steer has left and that aren't asked for.
    unwanted: Vec<u32>,
    following: Following,
    said: BTreeSet<String>,
    /// What failed with each group at the last try.
    failures: BTreeMap<GroupKey, String>,
    /// What steer waits for, if none of the listeners is steered.
    awaited: Option<String>,
    /// Groups that another program is attached to.
    displaced: BTreeSet<GroupKey>,
    /// What a steer of an earlier version has left of the port, until this steer has taken its
    /// place.
    older: Option<Older>,
    /// Programs of earlier steers whose places this steer has taken, or was about to take.
    succeeded: Vec<u32>,
    /// The tracker's count of joins, read before the last survey. A listener that appeared since
    /// puts the tracker's count ahead, and the kernel program notices that.
    joins: u64,
    /// How many events had found the ring buffer full when steer last asked.
    lost_events: u64,
    /// Workers that joined and whose earlier connections aren't looked for yet: the process, and
    /// the tag that such a connection gets.
    joined: Vec<(u32, Tag)>,
    /// When this steer began to steer, in clock ticks since boot: the unit in which /proc tells
    /// when a process started.
    began: u64,
    /// Counts the connections that workers had before they were steered.
    earlier: Option<Earlier>,
    /// Whether the earlier connections of all workers are still to be counted once more.
    look_again: bool,
    lock: PortLock,
}

impl Attachment {
    /// Takes the port's lock, and prepares everything but new groups. Takes over the groups that
    /// an earlier steer left pinned. From now on the ring buffer carries the port's events.
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
        // The count is read before the ring exists. Every event that the ring loses makes a
        // difference to it.
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

    /// Whether an earlier steer has left groups that this one takes over.
    pub fn is_adopted(&self) -> bool {
        !self.groups.is_empty() || !self.unwanted.is_empty()
    }

    /// Steers what listens on the port.
    ///
    /// # Errors
    /// If something listens there and none of it can be steered.
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
            // A steer that goes on after a reload doesn't end for what the former steer has lived
            // with.
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
    /// `expected` has the cookies of listeners that an event has announced. Something is in flux
    /// as long as one of them isn't found.
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
        // If the count can't be read, there is nothing new to tell.
        let state = self.host.state(self.place.attachment);
        let lost = state.map_or(self.lost_events, |state| state.lost_events);
        std::mem::replace(&mut self.lost_events, lost) != lost
    }

    /// Whether the pins are still there. If somebody unmounts the bpffs, they are gone.
    pub fn is_pinned(&self) -> bool {
        self.host.is_pinned() && self.lock.is_current()
    }

    /// Whether any worker is steered.
    pub fn steers(&self) -> bool {
        self.groups.iter().any(|group| group.live() > 0)
    }

    /// What the attachment does, in a line.
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

    /// What steer waited for when it last looked.
    pub fn awaited(&self) -> &str {
        self.awaited.as_deref().unwrap_or("nothing listens there")
    }

    /// The logs of new groups' programs. Each log is returned once.
    pub fn take_loggers(&mut self) -> Vec<EbpfLogger<&'static dyn log::Log>> {
        self.groups
            .iter_mut()
            .filter_map(Group::take_logger)
            .collect()
    }

    /// Hands the groups back to the kernel's hash, and removes all traces of the attachment.
    pub fn detach(mut self) -> anyhow::Result<()> {
        let mut own = self.succeeded;
        own.extend(self.groups.iter().map(|group| group.program_id));
        // If the maps stayed open, the tracker would outlive its pins.
        self.groups.clear();
        let is_own = |group: &FoundGroup| own.contains(&group.program_id);
        teardown(self.lock, self.host, self.members, is_own)
    }

    /// The port's lock.
    pub fn lock(&self) -> &PortLock {
        &self.lock
    }

    /// Leaves the attachment as it is. It goes on steering.
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

/// Takes the lock of a port, so that nobody else follows the port.
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

/// The time now, in clock ticks since boot.
fn ticks() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let per_second = clock_ticks_per_second();
    now.tv_sec as u64 * per_second + now.tv_nsec as u64 * per_second / 1_000_000_000
}
