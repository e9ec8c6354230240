//! One attachment: all steered groups of a port, kept equal to the workers that exist.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use steer_common::{limits::MAX_SLOTS, policy::Policy};

use crate::{
    admission, bpffs,
    exit::{Exit, Fail},
    group::{Group, JoinError, Place},
    host::{self, Host},
    loading::Kernel,
    lock::{Lock, LockError},
    members::Members,
    output::message,
    owner::Owner,
    pins::{Pins, Port},
    procfd::Scope,
    slots::{Step, Wanted, plan},
    survey::{FoundGroup, Holders, Target, address, survey},
    take::TakeError,
    teardown::teardown,
};

/// What `steer attach` was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What to steer.
    pub target: Target,
    /// Only groups bound to this address.
    pub bind: Option<IpAddr>,
    /// How to choose.
    pub policy: Policy,
    /// Attach in the place of another program.
    pub replace: bool,
}

/// How thoroughly to look for who serves what.
#[derive(Clone, Copy, Debug)]
pub enum Look<'a> {
    /// At every process.
    Everywhere,
    /// For new listeners only, at these processes first.
    At(&'a [u32]),
}

/// What a reconciliation leaves open.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Something was in flux: look again very soon.
    pub in_flux: bool,
    /// There are listeners that nobody polls: look again now and then.
    pub unpolled: bool,
    /// The processes that serve the steered listeners.
    pub owners: BTreeSet<u32>,
    /// The cookies of all listeners on the port.
    pub found: BTreeSet<u64>,
    /// How many groups of those that were asked for have listeners.
    pub groups: usize,
}

/// Workers that could not join a group.
#[derive(Debug, Default)]
struct Left {
    /// Why each of these was refused.
    refused: Vec<String>,
    /// How many found no slot.
    surplus: u32,
}

/// A running attachment.
pub struct Attachment {
    request: Request,
    place: Place,
    kernel: Kernel,
    pins: Pins,
    host: Host,
    members: Members,
    groups: Vec<Group>,
    holders: Holders,
    said: BTreeSet<String>,
    /// The tracker's count of joins before the last survey: one that it doesn't contain yet is
    /// noticed by the kernel program.
    joins: u64,
    lock: Lock,
}

impl Attachment {
    /// Takes the port's lock and prepares everything but the groups, or takes over those that an
    /// earlier steer left pinned. The ring buffer carries the port's events from now on.
    pub fn open(request: Request) -> anyhow::Result<(Self, RingBuf<MapData>)> {
        let Target {
            netns_cookie, port, ..
        } = request.target;
        let port = Port { netns_cookie, port };
        let kernel = Kernel::read()?;
        crate::object::bytes()?;
        let lock = Lock::acquire(&port.lock_name()).map_err(|error| held(port, error))?;
        let pins = Pins::new(&bpffs::root()?);
        match Self::prepare(request, port, kernel, &pins) {
            Ok((unlocked, ring)) => Ok((unlocked(lock), ring)),
            Err(error) => {
                host::forget_unless_pinned(&pins, port)?;
                host::remove_if_unused(&pins)?;
                bpffs::remove_root_if_empty()?;
                lock.release()?;
                Err(error)
            }
        }
    }

    fn prepare(
        request: Request,
        port: Port,
        kernel: Kernel,
        pins: &Pins,
    ) -> anyhow::Result<(impl FnOnce(Lock) -> Self, RingBuf<MapData>)> {
        let host_lock = host::lock()?;
        let mut host = Host::open_or_create(pins, &kernel)?;
        let attachment = host.register(port)?;
        let ring = host.new_ring(attachment)?;
        host_lock.release()?;
        let place = Place { port, attachment };
        let members = Members::load(&kernel, &pins.host(), port.port)?;
        let mut groups = Vec::new();
        for id in pins.groups(port)? {
            let mut group = Group::adopt(&kernel, pins, &mut host, place, id)?;
            group.set_policy(request.policy)?;
            groups.push(group);
        }
        let pins = pins.clone();
        let with_lock = move |lock| Self {
            request,
            place,
            kernel,
            pins,
            host,
            members,
            groups,
            holders: Holders::new(),
            said: BTreeSet::new(),
            joins: 0,
            lock,
        };
        Ok((with_lock, ring))
    }

    /// Whether an earlier steer left groups to take over.
    pub fn is_adopted(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Steers what is there, or fails where something is there and none of it can be steered.
    pub fn begin(&mut self) -> anyhow::Result<Outlook> {
        let found = self.survey(Look::Everywhere)?;
        let mut refusal = None;
        let mut admitted = false;
        for group in found
            .iter()
            .filter(|group| is_bound_to(group, self.request.bind))
        {
            match self.admit(group) {
                Ok(()) => admitted = true,
                Err(fail) if refusal.is_none() => refusal = Some(fail),
                Err(fail) => message(&format!("warning: {fail}")),
            }
        }
        match refusal {
            Some(fail) if !admitted => return Err(fail.into()),
            Some(fail) => self.say(format!("warning: {fail}")),
            None => {}
        }
        let outlook = self.settle(&found, &BTreeSet::new(), true)?;
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
        self.settle(&found, expected, false)
    }

    /// Events that found the ring buffer full so far.
    pub fn lost_events(&self) -> anyhow::Result<u64> {
        Ok(self.host.state(self.place.attachment)?.lost_events)
    }

    /// Whether a live slot belongs to this process.
    pub fn serves(&self, pid: u32) -> bool {
        self.groups.iter().any(|group| group.serves(pid))
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
        // The maps must be closed, or the tracker would outlive its pins.
        self.groups.clear();
        teardown(&self.pins, self.place.port, self.host, &mut self.members)?;
        drop(self.members);
        bpffs::remove_root_if_empty()?;
        Ok(self.lock.release()?)
    }

    /// Leaves everything steering as it is.
    pub fn keep(self) -> anyhow::Result<()> {
        Ok(self.lock.release()?)
    }

    fn survey(&mut self, look: Look<'_>) -> anyhow::Result<Vec<FoundGroup>> {
        let scope = match look {
            Look::Everywhere => {
                self.holders.clear();
                Scope::All
            }
            Look::At(pids) => Scope::Pids(pids),
        };
        self.joins = self.host.state(self.place.attachment)?.joins;
        survey(
            self.request.target,
            &mut self.members,
            &mut self.holders,
            scope,
        )
    }

    fn admit(&self, found: &FoundGroup) -> Result<(), Fail> {
        admission::check(found)?;
        if found.has_program && !self.request.replace && !self.is_ours(found) {
            return Err(admission::foreign_program(found));
        }
        Ok(())
    }

    fn is_ours(&self, found: &FoundGroup) -> bool {
        self.groups.iter().any(|group| {
            group.config.program_id == found.program_id
                || group.former_program == Some(found.program_id)
        })
    }

    fn settle(
        &mut self,
        found: &[FoundGroup],
        expected: &BTreeSet<u64>,
        first: bool,
    ) -> anyhow::Result<Outlook> {
        let mut outlook = Outlook::default();
        for group in found {
            let listeners = group.listeners.iter();
            outlook
                .found
                .extend(listeners.map(|found| found.listener.cookie));
        }
        outlook.in_flux = !expected.is_subset(&outlook.found);
        let bind = self.request.bind;
        for group in found.iter().filter(|group| is_bound_to(group, bind)) {
            outlook.groups += 1;
            if let Err(fail) = admission::check(group)
                && self.group_of(group).is_none()
            {
                self.say(format!("warning: {fail}"));
                continue;
            }
            if group.has_program && !self.request.replace && !self.is_ours(group) {
                self.say(format!("warning: {}", admission::foreign_program(group)));
                continue;
            }
            self.settle_group(group, &mut outlook, first)?;
        }
        // Groups that are gone altogether.
        for index in 0..self.groups.len() {
            let key = self.groups[index].config.key;
            if !found.iter().any(|group| group.key == key) {
                self.follow(index, &[], &mut outlook)?;
                self.commit(index, 0, &outlook)?;
            }
        }
        Ok(outlook)
    }

    fn group_of(&self, found: &FoundGroup) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.config.key == found.key)
    }

    fn settle_group(
        &mut self,
        found: &FoundGroup,
        outlook: &mut Outlook,
        first: bool,
    ) -> anyhow::Result<()> {
        let index = if let Some(index) = self.group_of(found) {
            index
        } else {
            let group = Group::create(
                &self.kernel,
                &self.pins,
                &mut self.host,
                self.place,
                found.key,
                self.request.policy,
            )?;
            self.groups.push(group);
            self.groups.len() - 1
        };
        let mut wanted = Vec::new();
        let mut excluded = Vec::new();
        let mut unsteered = 0;
        for found in &found.listeners {
            match &found.owner {
                Owner::Process(owner) => wanted.push(Wanted {
                    cookie: found.listener.cookie,
                    sock: found.sock,
                    owner: owner.clone(),
                }),
                Owner::Nobody => excluded.push(found.listener.cookie),
                Owner::Several(_) => unsteered += 1,
            }
        }
        outlook.unpolled |= !excluded.is_empty();
        outlook
            .owners
            .extend(wanted.iter().map(|worker| worker.owner.pid));
        let Left { refused, surplus } = self.follow(index, &wanted, outlook)?;
        if surplus > 0 {
            self.say(format!(
                "warning: tcp {}: {surplus} more workers than the {MAX_SLOTS} that steer takes; \
                 they keep the share that the kernel's hash gives them",
                address(&found.key)
            ));
        }
        if let Some(error) = refused.first() {
            let shown = format!("tcp {}: {error}", address(&found.key));
            if first {
                let advice = "detach that one first";
                return Err(Fail::new(Exit::CantSteer, format!("{shown}; {advice}")).into());
            }
            self.say(format!(
                "warning: {shown}; this worker keeps the share that the kernel's hash gives it"
            ));
        }
        unsteered += refused.len() as u32 + surplus;
        let group = &mut self.groups[index];
        for cookie in &excluded {
            group.exclude(*cookie)?;
        }
        group.forget_excluded(&excluded)?;
        self.commit(index, unsteered, outlook)?;
        self.attach(index, found, &wanted, outlook)
    }

    /// Makes a group's slots those of the wanted workers, as far as they can be.
    fn follow(
        &mut self,
        index: usize,
        wanted: &[Wanted],
        outlook: &mut Outlook,
    ) -> anyhow::Result<Left> {
        let group = &mut self.groups[index];
        let steps = plan(&group.table, |slot| group.active(slot), wanted);
        let mut left = Left::default();
        for step in &steps {
            log::debug!("group {}: {step:?}", group.id);
            if matches!(step, Step::Surplus { .. }) {
                left.surplus += 1;
            }
            match group.apply(&mut self.host, step) {
                Ok(()) => {}
                // On its way in or out: the next look will tell.
                Err(JoinError::NotListening { .. } | JoinError::Take(TakeError::Gone { .. })) => {
                    outlook.in_flux = true;
                }
                Err(error @ (JoinError::Busy { .. } | JoinError::Take(_))) => {
                    left.refused.push(error.to_string());
                }
                Err(error @ JoinError::Map { .. }) => return Err(error.into()),
            }
        }
        Ok(left)
    }

    fn commit(&mut self, index: usize, unsteered: u32, outlook: &Outlook) -> anyhow::Result<()> {
        // While something is in flux there may be a member that isn't known.
        let unsteered = unsteered + u32::from(outlook.in_flux);
        self.groups[index].commit(self.joins, unsteered)
    }

    fn attach(
        &mut self,
        index: usize,
        found: &FoundGroup,
        wanted: &[Wanted],
        outlook: &mut Outlook,
    ) -> anyhow::Result<()> {
        let group = &mut self.groups[index];
        if found.has_program && found.program_id == group.config.program_id || wanted.is_empty() {
            return Ok(());
        }
        for worker in wanted {
            match group.attach(&worker.owner, worker.cookie) {
                Ok(()) => {
                    let workers = group.live();
                    message(&format!(
                        "steering tcp {}: {} worker{}, policy {}",
                        address(&found.key),
                        workers,
                        if workers == 1 { "" } else { "s" },
                        Policy::from_raw(group.config.policy).name(),
                    ));
                    return Ok(());
                }
                Err(error) if error.downcast_ref::<TakeError>().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        // Every worker left meanwhile.
        outlook.in_flux = true;
        Ok(())
    }

    /// Says something once.
    fn say(&mut self, line: String) {
        if !self.said.contains(&line) {
            message(&line);
            self.said.insert(line);
        }
    }
}

fn is_bound_to(group: &FoundGroup, bind: Option<IpAddr>) -> bool {
    bind.is_none_or(|bind| address(&group.key).ip() == bind)
}

fn held(port: Port, error: LockError) -> anyhow::Error {
    match error {
        LockError::Held { pid, .. } => {
            let holder = pid.map_or("another process".into(), |pid| format!("process {pid}"));
            Fail::new(
                Exit::Held,
                format!(
                    "tcp port {} is already steered by {holder}; stop that steer or run `steer \
                     detach --port {}` first",
                    port.port, port.port
                ),
            )
            .into()
        }
        other @ (LockError::Name(_) | LockError::Io { .. }) => {
            anyhow::Error::from(other).context("failed to take the port's lock")
        }
    }
}
