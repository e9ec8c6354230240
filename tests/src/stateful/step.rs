//! What can be done to a port.

use std::iter;

use steer_common::policy::Policy;

use super::{
    model::{Model, Steered, Worker},
    random::Random,
};

/// Workers there are at least, so that somebody always listens and connections have an heir.
const FEWEST: usize = 2;

/// Workers there are at most.
const MOST: usize = 8;

/// One step. A worker is named by its place among those that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A worker begins to listen.
    Join,
    /// SIGTERM: a worker closes its listener and finishes what it has accepted.
    Stop(usize),
    /// SIGKILL.
    Kill(usize),
    /// SIGSTOP.
    Pause(usize),
    /// SIGCONT.
    Resume(usize),
    /// SIGSTOP, `steer evict`, SIGKILL.
    Evict(usize),
    /// `steer policy`.
    Policy(Policy),
    /// `steer weight`.
    Weight(usize, u32),
    /// `steer drain`.
    Drain(usize),
    /// `steer undrain`.
    Undrain(usize),
    /// SIGHUP to the loader.
    Reload,
    /// SIGKILL to the loader.
    KillLoader,
    /// `steer attach`, also where a killed loader left everything steering.
    Attach(Policy),
    /// SIGTERM to the loader.
    Detach,
    /// `steer detach`.
    DetachFromOutside,
}

impl Step {
    /// One of the steps that are possible.
    pub fn random(model: &Model, random: &mut Random) -> Self {
        let kinds = possible(model);
        let choice = random.below(kinds.iter().map(|(_, likely)| likely).sum());
        let mut sum = 0;
        let chosen = kinds.iter().find(|(_, likely)| {
            sum += likely;
            choice < sum
        });
        let kind = chosen.map_or(Kind::Join, |(kind, _)| *kind);
        let policy = random.pick(&Policy::ALL);
        let weight = random.below(5) as u32 + 1;
        let mut worker = |fits: fn(&Worker) -> bool| {
            let places = places(model, fits);
            random.pick(&places)
        };
        match kind {
            Kind::Join => Self::Join,
            Kind::Stop => Self::Stop(worker(awake)),
            Kind::Kill => Self::Kill(worker(|_| true)),
            Kind::Pause => Self::Pause(worker(awake)),
            Kind::Resume => Self::Resume(worker(|worker| worker.paused)),
            Kind::Evict => Self::Evict(worker(|worker| worker.known)),
            Kind::Policy => Self::Policy(policy),
            Kind::Weight => Self::Weight(worker(|worker| worker.known), weight),
            Kind::Drain => Self::Drain(worker(|worker| worker.known)),
            Kind::Undrain => Self::Undrain(worker(drained)),
            Kind::Reload => Self::Reload,
            Kind::KillLoader => Self::KillLoader,
            Kind::Attach => Self::Attach(policy),
            Kind::Detach => Self::Detach,
            Kind::DetachFromOutside => Self::DetachFromOutside,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Join,
    Stop,
    Kill,
    Pause,
    Resume,
    Evict,
    Policy,
    Weight,
    Drain,
    Undrain,
    Reload,
    KillLoader,
    Attach,
    Detach,
    DetachFromOutside,
}

/// The kinds of steps that are possible, and how likely each is.
fn possible(model: &Model) -> Vec<(Kind, usize)> {
    let workers = &model.workers;
    // A paused worker's connections wait for it, and not for ever.
    if workers.iter().any(|worker| worker.paused) {
        let kill = (workers.len() > FEWEST).then_some((Kind::Kill, 1));
        return iter::once((Kind::Resume, 3)).chain(kill).collect();
    }
    let mut kinds = Vec::new();
    if workers.len() < MOST {
        kinds.push((Kind::Join, 10));
    }
    if workers.len() > FEWEST {
        kinds.extend([(Kind::Stop, 5), (Kind::Kill, 4), (Kind::Pause, 3)]);
    }
    let any = |fits: fn(&Worker) -> bool| workers.iter().any(fits);
    match model.steered {
        Steered::No => kinds.push((Kind::Attach, 15)),
        Steered::Alone(_) => {
            kinds.extend([(Kind::Attach, 10), (Kind::DetachFromOutside, 1)]);
        }
        Steered::Followed(_) => {
            kinds.extend([(Kind::Reload, 2), (Kind::KillLoader, 1)]);
            kinds.extend([(Kind::Detach, 1), (Kind::DetachFromOutside, 1)]);
            if workers.len() > FEWEST {
                kinds.push((Kind::Evict, 2));
            }
        }
    }
    if model.steered != Steered::No {
        kinds.push((Kind::Policy, 4));
        if any(|worker| worker.known) {
            kinds.extend([(Kind::Weight, 4), (Kind::Drain, 4)]);
        }
        if any(drained) {
            kinds.push((Kind::Undrain, 4));
        }
    }
    kinds
}

fn places(model: &Model, fits: fn(&Worker) -> bool) -> Vec<usize> {
    let workers = model.workers.iter().enumerate();
    let fitting = workers.filter(|(_, worker)| fits(worker));
    fitting.map(|(place, _)| place).collect()
}

const fn awake(worker: &Worker) -> bool {
    !worker.paused
}

const fn drained(worker: &Worker) -> bool {
    worker.known && worker.rules.draining
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_always_listens() {
        let mut random = Random::new(2);
        let mut model = Model::new();
        for pid in 0..FEWEST as u32 {
            model.join(pid);
        }
        model.attach(Policy::Rr);
        for pid in FEWEST as u32..10_000 {
            match Step::random(&model, &mut random) {
                Step::Join => model.join(pid),
                Step::Stop(place) | Step::Kill(place) | Step::Evict(place) => {
                    model.workers.remove(place);
                }
                Step::Pause(place) => model.workers[place].paused = true,
                Step::Resume(place) => model.workers[place].paused = false,
                Step::Policy(_)
                | Step::Weight(..)
                | Step::Drain(_)
                | Step::Undrain(_)
                | Step::Reload
                | Step::KillLoader
                | Step::Attach(_)
                | Step::Detach
                | Step::DetachFromOutside => {}
            }
            assert!((FEWEST..=MOST).contains(&model.workers.len()), "{model:?}");
        }
    }

    #[test]
    fn only_what_is_possible_is_done() {
        let mut random = Random::new(1);
        let mut model = Model::new();
        for pid in 0..FEWEST as u32 {
            model.join(pid);
        }
        for _ in 0..1000 {
            let step = Step::random(&model, &mut random);
            assert!(
                matches!(step, Step::Join | Step::Attach(_)),
                "{step:?} of an unsteered port with {FEWEST} workers"
            );
        }
        model.attach(Policy::Rr);
        model.join(7);
        model.workers[2].paused = true;
        for _ in 0..1000 {
            let step = Step::random(&model, &mut random);
            assert!(
                matches!(step, Step::Resume(2) | Step::Kill(_)),
                "{step:?} while a worker is paused"
            );
        }
    }
}
