//! Makes the slots of an attachment's groups those of the workers that were found.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use steer_common::{config::GroupKey, limits::MAX_SLOTS, policy::Policy, slot::flags};

use super::{Attachment, Outlook};
use crate::{
    abandoned::{self, Loaded},
    address, admission, epoll,
    exit::{Exit, Fail, advice},
    group::{Group, JoinError},
    host::edit_lock,
    output::message,
    plural::counted,
    serving::{Serving, Unsure},
    slots::{Step, Wanted, plan},
    sockdiag,
    survey::FoundGroup,
    take::TakeError,
};

/// How long it may take from the end of a process until its listeners are closed.
const CLOSING: Duration = Duration::from_millis(50);

/// Workers that could not join a group.
#[derive(Debug, Default)]
struct Left {
    /// The listeners, and why each was refused.
    refused: Vec<(u64, String)>,
    /// Listeners that found no slot.
    surplus: Vec<u64>,
}

impl Attachment {
    pub(super) fn admit(&self, found: &FoundGroup) -> Result<(), Fail> {
        admission::check(found)?;
        if !found.has_program || self.is_ours(found) || self.is_older(found) {
            return Ok(());
        }
        match abandoned::among(|program| program.is_of(found)).first() {
            Some(program) if self.is_anothers(program) => Err(admission::followed_elsewhere(found)),
            None if !self.request.replace => Err(admission::foreign_program(found)),
            _ => Ok(()),
        }
    }

    /// Whether another steer follows what a program of steer does.
    fn is_anothers(&self, program: &Loaded) -> bool {
        // Who has the port's lock knows that nobody follows what this tracker serves there.
        program.is_tracked && !(program.is_of_tracker(self.host.id()) && self.lock.is_current())
    }

    /// Whether a program is attached that a steer of an earlier version has left.
    fn is_older(&self, found: &FoundGroup) -> bool {
        let older = self.older.as_ref();
        older.is_some_and(|older| older.group(found.program_id).is_some())
    }

    fn is_ours(&self, found: &FoundGroup) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.is_program(found.program_id))
    }

    pub(super) fn settle(
        &mut self,
        found: &[FoundGroup],
        expected: &BTreeSet<u64>,
        first: bool,
    ) -> anyhow::Result<Outlook> {
        // Until the end nobody else changes the slots, and what others changed is kept.
        let _edit = edit_lock(self.lock.pins(), self.place.port)?;
        let mut errors = Errors::default();
        let mut unread = BTreeSet::new();
        for group in &mut self.groups {
            let key = group.table.config.key;
            if errors.note(key, group.table.reload()).is_none() {
                unread.insert(key);
            }
        }
        let mut outlook = Outlook {
            processes: self.following.processes(),
            ..Outlook::default()
        };
        for group in found {
            let listeners = group.listeners.iter();
            outlook
                .found
                .extend(listeners.map(|found| found.listener.cookie));
        }
        outlook.in_flux = !expected.is_subset(&outlook.found);
        let asked: Vec<&FoundGroup> = found
            .iter()
            .filter(|group| self.request.asks_for(&group.key))
            .collect();
        for &group in &asked {
            outlook.groups += 1;
            if unread.contains(&group.key) {
                continue;
            }
            if let Err(fail) = admission::check(group)
                && self.group_of(group).is_none()
            {
                self.say(format!("warning: {fail}"));
                continue;
            }
            let mut left = None;
            if group.has_program && !self.is_ours(group) && !self.is_older(group) {
                left = abandoned::of(group);
                // Two steers never fight, whatever was asked for.
                if left.as_ref().is_some_and(|left| self.is_anothers(left)) {
                    let fail = admission::followed_elsewhere(group);
                    self.say(format!("warning: {fail}"));
                    continue;
                }
                if left.is_none() {
                    self.displaced(group);
                    if !self.request.replace {
                        continue;
                    }
                }
            } else {
                self.displaced.remove(&group.key);
            }
            let settled = self.settle_group(group, left, &mut outlook, first);
            errors.note(group.key, settled);
        }
        // Groups that are gone altogether.
        for index in 0..self.groups.len() {
            let key = self.groups[index].table.config.key;
            if !unread.contains(&key) && !found.iter().any(|group| group.key == key) {
                let emptied = self.empty(index, &mut outlook);
                errors.note(key, emptied);
            }
        }
        if outlook.groups > 0 && !self.steers() {
            if first && let Some((_, error)) = errors.0.pop() {
                return Err(error);
            }
            let group = asked.iter().find(|group| group.reuse != 0);
            outlook.awaited = group.map(|group| admission::awaited(group));
        }
        self.awaited.clone_from(&outlook.awaited);
        self.tell(errors, &mut outlook);
        Ok(outlook)
    }

    /// Says what failed, where it isn't what failed the last time, too.
    fn tell(&mut self, errors: Errors, outlook: &mut Outlook) {
        outlook.failed |= !errors.0.is_empty();
        let mut failures = BTreeMap::new();
        for (key, error) in errors.0 {
            let text = format!(
                "warning: tcp {}: {error:#}{}; trying again",
                address::shown(&key),
                advice(&error)
            );
            if self.failures.get(&key) != Some(&text) {
                message(&text);
            }
            failures.insert(key, text);
        }
        self.failures = failures;
    }

    /// Takes the workers of a group that is gone out of its slots.
    fn empty(&mut self, index: usize, outlook: &mut Outlook) -> anyhow::Result<()> {
        self.follow(index, &[], outlook)?;
        self.commit(index, 0, outlook)
    }

    /// Prepares to take the place of a program that a steer left whose pins are gone.
    fn succeed(&mut self, left: Loaded) {
        self.succeeded.push(left.program_id);
        self.say(format!(
            "tcp {}: taking the place of eBPF program {}, whose steer is gone and its pins too",
            address::shown(&left.key),
            left.program_id
        ));
        left.release();
    }

    /// Says that another program is attached to a group, once for each time that it comes.
    fn displaced(&mut self, found: &FoundGroup) {
        if !self.displaced.insert(found.key) {
            return;
        }
        let was_steered = self
            .group_of(found)
            .is_some_and(|index| self.groups[index].live() > 0);
        let replace = self.request.replace;
        if was_steered {
            message(&format!(
                "warning: {}",
                admission::displaced(found, replace)
            ));
        } else if !replace {
            message(&format!("warning: {}", admission::foreign_program(found)));
        }
    }

    fn group_of(&self, found: &FoundGroup) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.table.config.key == found.key)
    }

    fn settle_group(
        &mut self,
        found: &FoundGroup,
        left: Option<Loaded>,
        outlook: &mut Outlook,
        first: bool,
    ) -> anyhow::Result<()> {
        let index = if let Some(index) = self.group_of(found) {
            index
        } else {
            let older = self.older.as_ref();
            let older = older.and_then(|older| older.group(found.program_id));
            let rules = match older {
                Some(older) if self.request.resumes => older.rules(),
                _ => self.request.rules,
            };
            let group = Group::create(
                &self.kernel,
                self.lock.pins(),
                &mut self.host,
                self.place,
                found.key,
                self.request.migrates,
                rules,
            )?;
            self.groups.push(group);
            self.groups.len() - 1
        };
        let Sorted {
            wanted,
            excluded,
            mut unsteered,
        } = self.sorted(index, found);
        let open = self.following.open();
        let cookies = found.listeners.iter().map(|found| found.listener.cookie);
        outlook
            .open
            .extend(cookies.filter(|cookie| open.contains(cookie)));
        if first && found.listeners.iter().all(|found| found.holder.is_none()) {
            if is_left(found)? {
                outlook.groups -= 1;
                outlook.in_flux = true;
            } else {
                self.say(format!(
                    "warning: tcp {}: no process that steer sees in /proc has its listeners, so nothing \
                     is steered there; in a container, steer needs the host's pid namespace",
                    address::shown(&found.key)
                ));
            }
        }
        if let Some(left) = left
            && !wanted.is_empty()
        {
            self.succeed(left);
        }
        if let Some(older) = &mut self.older
            && !wanted.is_empty()
        {
            older.release(found.program_id);
        }
        let is_steered = self.groups[index].program_id == found.program_id;
        let joined = self.joined.len();
        let Left { refused, surplus } = self.follow(index, &wanted, outlook)?;
        if !surplus.is_empty() {
            self.say(format!(
                "warning: tcp {}: {} than the {MAX_SLOTS} that steer takes; \
                 they keep the share that the kernel's hash gives them",
                address::shown(&found.key),
                counted(surplus.len() as u64, "more worker")
            ));
        }
        if let Some((_, error)) = refused.first() {
            let shown = format!("tcp {}: {error}", address::shown(&found.key));
            if first && self.groups[index].live() == 0 {
                let advice = "detach that one first";
                return Err(Fail::new(Exit::CantSteer, format!("{shown}; {advice}")).into());
            }
            self.say(format!(
                "warning: {shown}; this worker keeps the share that the kernel's hash gives it"
            ));
        }
        unsteered.extend(surplus);
        unsteered.extend(refused.iter().map(|(cookie, _)| cookie));
        if let Some(older) = &self.older
            && let Some(older) = older.group(found.program_id)
        {
            older.hand_on(&mut self.groups[index].table)?;
        }
        self.groups[index].table.exclude(&excluded, &unsteered)?;
        self.commit(index, unsteered.len() as u32, outlook)?;
        if is_steered && !self.groups[index].has_left_any_to_the_hash()? {
            // So none can have had a connection before, but for a process that was there before steer: its
            // listener may have been shut down then.
            let began = self.began;
            let is_older = |pid| epoll::started(pid).is_none_or(|started| started <= began);
            let (older, newer) = self.joined.split_at(joined);
            let newer = newer.iter().filter(|(pid, _)| is_older(*pid));
            self.joined = older.iter().chain(newer).copied().collect();
        }
        if self.joined.len() > joined {
            // Before a program is attached that moves what waits.
            self.count_waiting();
        }
        self.attach(index, found, &wanted, outlook)
    }

    /// What is to become of each listener of a group.
    fn sorted(&mut self, index: usize, found: &FoundGroup) -> Sorted {
        let mut sorted = Sorted::default();
        for found_listener in &found.listeners {
            let cookie = found_listener.listener.cookie;
            if let Some(why) = admission::unsteerable(found_listener) {
                self.say(format!(
                    "warning: tcp {}: {why}; this worker keeps the share that the kernel's hash gives it",
                    address::shown(&found.key)
                ));
                sorted.unsteered.push(cookie);
                continue;
            }
            let (owner, unsure) = match &found_listener.serving {
                Serving::By(owner, unsure) => (owner, unsure.as_ref()),
                // It was steered, and whoever takes its connections takes them from the same queue.
                Serving::Undecided(unsure, Some(holder)) if self.groups[index].has(cookie) => {
                    (holder, Some(unsure))
                }
                Serving::Undecided(..) => {
                    sorted.unsteered.push(cookie);
                    continue;
                }
                Serving::Nobody => {
                    sorted.excluded.push(cookie);
                    continue;
                }
            };
            sorted.wanted.push(Wanted {
                cookie,
                sock: found_listener.sock,
                waiters: found_listener.event_loop,
                owner: owner.clone(),
                marks: match unsure {
                    None => 0,
                    Some(Unsure::Several(_)) => flags::SHARED,
                    Some(Unsure::NotSeen(_) | Unsure::NoHolder) => flags::NOT_SEEN,
                },
            });
        }
        sorted
    }

    /// Makes a group's slots those of the wanted workers, as far as they can be.
    fn follow(
        &mut self,
        index: usize,
        wanted: &[Wanted],
        outlook: &mut Outlook,
    ) -> anyhow::Result<Left> {
        let group = &mut self.groups[index];
        outlook.in_flux |= !group.mend(wanted)?;
        group.leave_closed(&mut self.host)?;
        let table = &group.table;
        let steps = plan(&table.slots, |slot| table.usage(slot), wanted);
        let mut left = Left::default();
        let mut failure = None;
        for step in &steps {
            log::debug!("group {}: {step:?}", group.id);
            if let Step::Surplus { worker } = step {
                left.surplus.push(worker.cookie);
            }
            let error = match group.apply(&mut self.host, step) {
                Ok(()) => {
                    if let Step::Join { slot, .. } = step {
                        self.joined.extend(group.tag_of(*slot));
                    }
                    continue;
                }
                Err(error) => error,
            };
            // What can't be done for one worker is no reason to leave the others alone.
            match (error.is_passing(), step) {
                (true, _) => outlook.in_flux = true,
                (false, Step::Join { worker, .. } | Step::Return { worker, .. }) => {
                    outlook.failed |= matches!(error, JoinError::Map { .. });
                    let why = format!("{:#}", anyhow::Error::from(error));
                    left.refused.push((worker.cookie, why));
                }
                (false, _) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(left),
        }
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
        if found.has_program && found.program_id == group.program_id || wanted.is_empty() {
            return Ok(());
        }
        // A program that has no worker to choose takes the group from none that has.
        let wanted = if group.live() > 0 { wanted } else { &[] };
        for worker in wanted {
            match group.attach(&worker.owner, worker.cookie, found.program_id) {
                Ok(()) => {
                    self.displaced.remove(&found.key);
                    let workers = group.live();
                    message(&format!(
                        "steering tcp {}: {}, policy {}",
                        address::shown(&found.key),
                        counted(workers as u64, "worker"),
                        Policy::from_raw(group.table.config.policy).name(),
                    ));
                    return Ok(());
                }
                Err(error) if error.downcast_ref::<TakeError>().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        // Every worker left meanwhile, or was refused.
        if !wanted.is_empty() || outlook.in_flux {
            outlook.groups -= 1;
            outlook.in_flux = true;
        }
        Ok(())
    }

    /// Says something once.
    pub(super) fn say(&mut self, line: String) {
        if !self.said.contains(&line) {
            message(&line);
            self.said.insert(line);
        }
    }
}

/// What is to become of the listeners of a group.
#[derive(Debug, Default)]
struct Sorted {
    /// These are steered.
    wanted: Vec<Wanted>,
    /// Certainly nobody serves these.
    excluded: Vec<u64>,
    /// These have the share that the hash gives them.
    unsteered: Vec<u64>,
}

/// What failed, and with which groups.
#[derive(Default)]
struct Errors(Vec<(GroupKey, anyhow::Error)>);

impl Errors {
    fn note<T>(&mut self, key: GroupKey, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push((key, error))).ok()
    }
}

/// Whether the listeners of a group that no process has are gone in a moment: one that ends gives up its
/// descriptors first.
fn is_left(group: &FoundGroup) -> anyhow::Result<bool> {
    thread::sleep(CLOSING);
    let listed = sockdiag::listeners(group.key.port as u16)?;
    Ok(!group.listeners.iter().any(|found| {
        let mut listed = listed.iter();
        listed.any(|listener| listener.cookie == found.listener.cookie)
    }))
}
