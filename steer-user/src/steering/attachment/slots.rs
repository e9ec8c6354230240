//! Gives each worker of a group a slot.

use steer_common::{policy::Policy, slot::flags};

use super::{Attachment, Outlook};
use crate::{
    output::{plural::counted, print::message},
    steering::{
        admission,
        group::JoinError,
        plan::{Step, Wanted, plan},
        take::TakeError,
    },
    survey::{
        address,
        groups::FoundGroup,
        serving::{Serving, Unsure},
    },
};

/// Workers that could not join a group.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The refused listeners, each with the reason.
    pub(super) refused: Vec<(u64, String)>,
    /// The listeners for which no slot is free.
    pub(super) surplus: Vec<u64>,
}

/// What is to become of the listeners of a group.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Listeners that are steered.
    pub(super) wanted: Vec<Wanted>,
    /// Listeners that certainly nobody serves. They get nothing.
    pub(super) excluded: Vec<u64>,
    /// Listeners that keep the share that the hash gives them.
    pub(super) unsteered: Vec<u64>,
}

impl Attachment {
    /// Decides what becomes of each listener of a group.
    pub(super) fn sorted(&mut self, index: usize, found: &FoundGroup) -> Sorted {
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
                // The listener has a slot, and keeps it: whoever serves it takes connections from
                // the same queue.
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

    /// Makes the slots of a group equal to the wanted workers, as far as possible.
    pub(super) fn follow(
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
            // If a step fails for one worker, the other workers still get their slots.
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

    pub(super) fn commit(
        &mut self,
        index: usize,
        unsteered: u32,
        outlook: &Outlook,
    ) -> anyhow::Result<()> {
        // While something is in flux, there may be a member that steer doesn't know.
        let unsteered = unsteered + u32::from(outlook.in_flux);
        self.groups[index].commit(self.joins, unsteered)
    }

    pub(super) fn attach(
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
        // If no slot is live, the program has no worker to select. So it isn't attached.
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
        // Every worker has left meanwhile, or was refused.
        if !wanted.is_empty() || outlook.in_flux {
            outlook.groups -= 1;
            outlook.in_flux = true;
        }
        Ok(())
    }
}
