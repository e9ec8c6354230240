//! Makes the slots of an attachment's groups those of the workers that were found.

use std::{collections::BTreeSet, net::IpAddr, thread, time::Duration};

use steer_common::{limits::MAX_SLOTS, policy::Policy};

use super::{Attachment, Outlook};
use crate::{
    abandoned::{self, Loaded},
    admission,
    exit::{Exit, Fail},
    group::{Group, JoinError},
    output::message,
    owner::Owner,
    slots::{Step, Wanted, plan},
    sockdiag,
    survey::{FoundGroup, address},
    table::edit_lock,
    take::TakeError,
};

/// How long it may take from the end of a process until its listeners are closed.
const CLOSING: Duration = Duration::from_millis(50);

/// Workers that could not join a group.
#[derive(Debug, Default)]
struct Left {
    /// Why each of these was refused.
    refused: Vec<String>,
    /// How many found no slot.
    surplus: u32,
}

impl Attachment {
    pub(super) fn admit(&self, found: &FoundGroup) -> Result<(), Fail> {
        admission::check(found)?;
        if !found.has_program || self.is_ours(found) {
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
        program.is_tracked && !program.is_of_tracker(self.host.id())
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
        let edit = edit_lock(self.place.port)?;
        for group in &mut self.groups {
            group.table.reload()?;
        }
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
            let mut left = None;
            if group.has_program && !self.is_ours(group) {
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
            self.settle_group(group, left, &mut outlook, first)?;
        }
        // Groups that are gone altogether.
        for index in 0..self.groups.len() {
            let key = self.groups[index].table.config.key;
            if !found.iter().any(|group| group.key == key) {
                self.follow(index, &[], &mut outlook)?;
                self.commit(index, 0, &outlook)?;
            }
        }
        edit.release()?;
        Ok(outlook)
    }

    /// Prepares to take the place of a program that a steer left whose pins are gone.
    fn succeed(&mut self, left: Loaded) {
        self.succeeded.push(left.program_id);
        self.say(format!(
            "tcp {}: taking the place of eBPF program {}, whose steer is gone and its pins too",
            address(&left.key),
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
            let group = Group::create(
                &self.kernel,
                &self.pins,
                &mut self.host,
                self.place,
                found.key,
                self.request.migrates,
                self.request.rules,
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
                    waiters: found.waiters,
                    owner: owner.clone(),
                }),
                Owner::Nobody => excluded.push(found.listener.cookie),
                Owner::Several(_) => unsteered += 1,
            }
        }
        outlook.unpolled |= !excluded.is_empty();
        if first && found.listeners.iter().all(|found| found.holder.is_none()) {
            if is_left(found)? {
                outlook.groups -= 1;
                outlook.in_flux = true;
            } else {
                self.say(format!(
                    "warning: tcp {}: no process that steer sees in /proc has its listeners, so nothing \
                     is steered there; in a container, steer needs the host's pid namespace",
                    address(&found.key)
                ));
            }
        }
        outlook
            .owners
            .extend(wanted.iter().map(|worker| worker.owner.pid));
        if let Some(left) = left
            && !wanted.is_empty()
        {
            self.succeed(left);
        }
        let is_steered = self.groups[index].program_id == found.program_id;
        let joined = self.joined.len();
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
        self.groups[index].table.exclude(&excluded)?;
        self.commit(index, unsteered, outlook)?;
        if is_steered && !self.groups[index].has_left_any_to_the_hash()? {
            // So none can have had a connection before.
            self.joined.truncate(joined);
        }
        if self.joined.len() > joined {
            // Before a program is attached that moves what waits.
            self.count_waiting();
        }
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
        outlook.in_flux |= !group.mend(wanted)?;
        group.leave_closed(&mut self.host)?;
        let table = &group.table;
        let steps = plan(&table.slots, |slot| table.active(slot), wanted);
        let mut left = Left::default();
        for step in &steps {
            log::debug!("group {}: {step:?}", group.id);
            if matches!(step, Step::Surplus { .. }) {
                left.surplus += 1;
            }
            match group.apply(&mut self.host, step) {
                Ok(()) => {
                    if let Step::Join { slot, .. } = step {
                        self.joined.extend(group.tag_of(*slot));
                    }
                }
                Err(error) if error.is_passing() => outlook.in_flux = true,
                Err(error @ JoinError::Map { .. }) => return Err(error.into()),
                Err(error) => left.refused.push(error.to_string()),
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
                        "steering tcp {}: {} worker{}, policy {}",
                        address(&found.key),
                        workers,
                        if workers == 1 { "" } else { "s" },
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

pub(super) fn is_bound_to(group: &FoundGroup, bind: Option<IpAddr>) -> bool {
    bind.is_none_or(|bind| address(&group.key).ip() == bind)
}
