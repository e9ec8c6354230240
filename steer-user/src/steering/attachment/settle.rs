//! Makes the slots of all groups of an attachment equal to the workers that were found.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use steer_common::{config::GroupKey, limits::MAX_SLOTS};

use super::{
    Attachment, Outlook,
    slots::{Left, Sorted},
};
use crate::{
    output::{
        exit::{Exit, Fail},
        plural::counted,
        print::message,
    },
    state::host::edit_lock,
    steering::{
        abandoned::{self, Loaded},
        admission,
        failure::advice,
        group::Group,
    },
    survey::{address, groups::FoundGroup},
    sys::{procfs, sockdiag},
};

/// How long after the end of a process its listeners may still be open.
const CLOSING: Duration = Duration::from_millis(50);

impl Attachment {
    pub(super) fn settle(
        &mut self,
        found: &[FoundGroup],
        expected: &BTreeSet<u64>,
        first: bool,
    ) -> anyhow::Result<Outlook> {
        // While this has the lock for changes, nobody else changes the slots. The tables are read
        // under the lock, so that what others have changed is kept.
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
                // Two steers never fight, not even with --replace.
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
        // These groups have no listeners any more.
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

    /// Says what failed. What failed at the last try in the same way isn't said again.
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

    pub(super) fn group_of(&self, found: &FoundGroup) -> Option<usize> {
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
                     is steered there; in a container, steer needs the host's pid namespace (--pid=host)",
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
                return Err(Fail::new(Exit::CantSteer, shown).into());
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
            // steer's program was attached all the time and has left nothing to the hash. So a
            // worker that joins now has had no connection before. An exception is a process that
            // is older than this steer: its listener may have been shut down before, with
            // connections open.
            let began = self.began;
            let is_older = |pid| procfs::started(pid).is_none_or(|started| started <= began);
            let (older, newer) = self.joined.split_at(joined);
            let newer = newer.iter().filter(|(pid, _)| is_older(*pid));
            self.joined = older.iter().chain(newer).copied().collect();
        }
        if self.joined.len() > joined {
            // This comes before the program is attached, which may migrate the connections that
            // wait.
            self.count_waiting();
        }
        self.attach(index, found, &wanted, outlook)
    }

    /// Prints a line, unless it was printed before.
    pub(super) fn say(&mut self, line: String) {
        if !self.said.contains(&line) {
            message(&line);
            self.said.insert(line);
        }
    }
}

/// The groups for which something failed, with the errors.
#[derive(Default)]
struct Errors(Vec<(GroupKey, anyhow::Error)>);

impl Errors {
    fn note<T>(&mut self, key: GroupKey, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push((key, error))).ok()
    }
}

/// Whether the listeners of a group that no process holds are gone in a moment. A process that
/// ends gives up its descriptors before its listeners are closed.
fn is_left(group: &FoundGroup) -> anyhow::Result<bool> {
    thread::sleep(CLOSING);
    let listed = sockdiag::listeners(group.key.port as u16)?;
    Ok(!group.listeners.iter().any(|found| {
        let mut listed = listed.iter();
        listed.any(|listener| listener.cookie == found.listener.cookie)
    }))
}
