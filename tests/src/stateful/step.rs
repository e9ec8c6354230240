//! What can be done to the ports of a host.

use std::iter;

use steer_common::policy::Policy;

use super::{
    model::{Listener, Model, State, Steered, Unit},
    random::Random,
    words::Kind,
};

/// Units that serve there are at least, so that somebody always listens and connections have an heir.
const FEWEST: usize = 2;

/// Listeners there are at most.
const MOST: usize = 9;

/// Units that have closed their listeners and go on with connections there are at most.
const RETIRED: usize = 2;

/// The longest time from SIGHUP to a SIGTERM that follows it, in milliseconds.
const IN_RELOAD_MS: usize = 60;

/// Half-open probes that come at once.
const PROBES: usize = 40;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the workers of a port.
    Crew(usize, Act),
    /// To the loaders of some ports, all at one moment.
    Loaders(Vec<(usize, Lead)>),
}

/// What is done to the workers of a port. A unit is named by its place among those that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A unit begins to listen.
    Join(Kind),
    /// It closes its listeners and keeps its connections.
    Retire(usize),
    /// It ends, having closed its listeners.
    End(usize),
    /// SIGKILL.
    Kill(usize),
    /// SIGKILL to the process that serves one of its listeners, which another one follows.
    Replace(usize, usize),
    /// SIGSTOP.
    Freeze(usize),
    /// SIGCONT.
    Thaw(usize),
    /// SIGSTOP, `steer evict`, SIGKILL.
    Evict(usize),
    /// New processes poll its listeners, and after a while the old ones don't any more.
    Reload(usize),
    /// It shuts its listeners down.
    Pause(usize),
    /// It listens again.
    Again(usize),
    /// `steer policy`.
    Policy(Policy),
    /// `steer weight` for a process.
    Weight(u32, u32),
    /// `steer drain` for a process.
    Drain(u32),
    /// `steer undrain` for a process.
    Undrain(u32),
    /// SYNs that are reset at the SYN-ACK.
    HalfOpen(usize),
}

/// What is done to a port's loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// `steer attach`, also where a killed loader left everything steering.
    Attach(Policy),
    /// SIGHUP.
    Reload,
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// SIGHUP, and SIGTERM so many milliseconds later.
    StopInReload(u64),
    /// `steer detach`.
    Detach,
}

impl Step {
    /// One of the steps that are possible.
    pub fn random(models: &[Model], random: &mut Random) -> Self {
        let frozen = models.iter().position(has_frozen);
        if random.below(if frozen.is_some() { 3 } else { 5 }) == 0 {
            let mut ports: Vec<usize> = (0..models.len()).collect();
            let count = random.below(ports.len()) + 1;
            let mut leads = Vec::new();
            for _ in 0..count {
                let port = ports.swap_remove(random.below(ports.len()));
                leads.push((port, lead(&models[port], random)));
            }
            return Self::Loaders(leads);
        }
        let port = frozen.unwrap_or_else(|| random.below(models.len()));
        Self::Crew(port, act(&models[port], random))
    }

    /// The ports that it is about.
    pub fn ports(&self) -> Vec<usize> {
        match self {
            Self::Crew(port, _) => vec![*port],
            Self::Loaders(leads) => leads.iter().map(|(port, _)| *port).collect(),
        }
    }
}

/// Whether a unit is stopped: its connections wait for it, and not for ever.
fn has_frozen(model: &Model) -> bool {
    model.units.iter().any(|unit| unit.state == State::Frozen)
}

fn lead(model: &Model, random: &mut Random) -> Lead {
    let policy = random.pick(&Policy::ALL);
    let likely = match model.steered {
        Steered::No => vec![(Lead::Attach(policy), 1)],
        Steered::Alone(_) => vec![(Lead::Attach(policy), 8), (Lead::Detach, 1)],
        Steered::Followed(_) => {
            let later = random.below(IN_RELOAD_MS) as u64;
            vec![
                (Lead::Reload, 6),
                (Lead::Kill, 3),
                (Lead::Stop, 2),
                (Lead::StopInReload(later), 1),
                (Lead::Detach, 1),
            ]
        }
    };
    choose(&likely, random)
}

fn act(model: &Model, random: &mut Random) -> Act {
    let mut likely = Vec::new();
    let mut each = |likely: &mut Vec<(Act, usize)>,
                    weight,
                    act: fn(usize) -> Act,
                    fits: &dyn Fn(&Unit) -> bool| {
        let units = model.units.iter().enumerate();
        let fitting: Vec<usize> = units
            .filter(|(_, unit)| fits(unit))
            .map(|(place, _)| place)
            .collect();
        if !fitting.is_empty() {
            likely.push((act(random.pick(&fitting)), weight));
        }
    };
    let frozen = |unit: &Unit| unit.state == State::Frozen;
    let serving = |unit: &Unit| unit.state == State::Serves;
    let spare = model.units.iter().filter(|unit| serving(unit)).count() > FEWEST;
    if has_frozen(model) {
        each(&mut likely, 3, Act::Thaw, &frozen);
        if spare {
            each(&mut likely, 1, Act::Kill, &frozen);
        }
        return choose(&likely, random);
    }
    let retired = model
        .units
        .iter()
        .filter(|unit| unit.state == State::Retired)
        .count();
    if spare {
        if retired < RETIRED {
            each(&mut likely, 6, Act::Retire, &serving);
        }
        each(&mut likely, 4, Act::Kill, &serving);
        each(&mut likely, 3, Act::Freeze, &serving);
        each(&mut likely, 4, Act::Pause, &|unit| {
            serving(unit) && unit.kind == Kind::Pauses
        });
        if model.is_followed() {
            each(&mut likely, 1, Act::Evict, &|unit| {
                serving(unit) && unit.is_known() && unit.kind != Kind::Prefork
            });
        }
    }
    each(&mut likely, 6, Act::Again, &|unit| {
        unit.state == State::Paused
    });
    each(&mut likely, 1, Act::Kill, &|unit| {
        unit.state == State::Paused
    });
    each(&mut likely, 4, Act::End, &|unit| {
        unit.state == State::Retired
    });
    each(&mut likely, 5, Act::Reload, &|unit| {
        serving(unit) && unit.kind == Kind::Prefork
    });
    each(&mut likely, 2, |unit| Act::Replace(unit, 0), &|unit| {
        serving(unit) && unit.kind == Kind::Prefork
    });
    let open: usize = model
        .units
        .iter()
        .filter(|unit| unit.state != State::Retired)
        .map(|unit| unit.listeners.len())
        .sum();
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| open + kind.listeners() <= MOST)
        .collect();
    if !kinds.is_empty() {
        likely.push((Act::Join(random.pick(&kinds)), 10));
    }
    likely.push((Act::HalfOpen(random.below(PROBES) + 1), 2));
    if model.steered != Steered::No {
        likely.push((Act::Policy(random.pick(&Policy::ALL)), 4));
        likely.extend(of_a_process(model, random));
    }
    choose(&likely, random)
}

/// What can be said of a process that steer has.
fn of_a_process(model: &Model, random: &mut Random) -> Vec<(Act, usize)> {
    let named = |(unit, listener): &(&Unit, &Listener)| {
        // Without a loader steer knows the processes that there were.
        listener.known && (model.is_followed() || unit.kind != Kind::Prefork)
    };
    let workers: Vec<Listener> = model
        .listening()
        .filter(named)
        .map(|(_, listener)| *listener)
        .collect();
    if workers.is_empty() {
        return Vec::new();
    }
    let pid = random.pick(&workers).named;
    let weight = random.below(5) as u32 + 1;
    let drained: Vec<Listener> = workers
        .into_iter()
        .filter(|worker| worker.rules.draining)
        .collect();
    let undrain = (!drained.is_empty()).then(|| (Act::Undrain(random.pick(&drained).named), 4));
    [(Act::Weight(pid, weight), 3), (Act::Drain(pid), 2)]
        .into_iter()
        .chain(undrain)
        .collect()
}

fn choose<T: Clone>(likely: &[(T, usize)], random: &mut Random) -> T {
    let choice = random.below(likely.iter().map(|(_, weight)| weight).sum());
    let sums = likely.iter().scan(0, |sum, (_, weight)| {
        *sum += weight;
        Some(*sum)
    });
    let place = iter::zip(0.., sums).find(|(_, sum)| choice < *sum);
    likely[place.map_or(0, |(place, _)| place)].0.clone()
}

#[cfg(test)]
mod tests {
    use super::{super::model::Rules, *};

    fn unit(kind: Kind, mark: u32) -> Unit {
        let listeners = (mark..).take(kind.listeners()).map(|mark| Listener {
            mark,
            cookie: mark.into(),
            pid: mark,
            named: mark,
            known: false,
            rules: Rules::NONE,
            unsure: false,
        });
        Unit::new(kind, listeners.collect())
    }

    fn host() -> Vec<Model> {
        let mut models = vec![Model::new(), Model::new(), Model::new()];
        for model in &mut models {
            model.join(unit(Kind::Epoll, 1));
            model.join(unit(Kind::Prefork, 2));
        }
        models
    }

    fn take(models: &mut [Model], step: &Step, mark: u32) {
        match step {
            Step::Loaders(leads) => {
                for (port, lead) in leads {
                    let model = &mut models[*port];
                    match lead {
                        Lead::Attach(policy) => model.attach(*policy),
                        Lead::Reload => {}
                        Lead::Kill => model.steered = Steered::Alone(Policy::Rr),
                        Lead::Stop | Lead::StopInReload(_) | Lead::Detach => model.detach(),
                    }
                }
            }
            Step::Crew(port, act) => {
                let model = &mut models[*port];
                match *act {
                    Act::Join(kind) => model.join(unit(kind, mark)),
                    Act::Retire(place) => model.units[place].state = State::Retired,
                    Act::End(place) | Act::Kill(place) | Act::Evict(place) => {
                        model.units.remove(place);
                    }
                    Act::Freeze(place) => model.units[place].state = State::Frozen,
                    Act::Thaw(place) => model.units[place].state = State::Serves,
                    Act::Pause(place) => model.pause(place),
                    Act::Again(place) => model.listen(place),
                    Act::Drain(pid) => model.change(pid, |rules| rules.draining = true),
                    Act::Undrain(pid) => model.change(pid, |rules| rules.draining = false),
                    Act::Replace(..)
                    | Act::Reload(_)
                    | Act::Policy(_)
                    | Act::Weight(..)
                    | Act::HalfOpen(_) => {}
                }
            }
        }
    }

    #[test]
    fn somebody_always_serves_and_everything_is_done_in_time() {
        let mut random = Random::new(2);
        let mut models = host();
        let mut kinds = std::collections::BTreeSet::new();
        for mark in 10..20_000 {
            let step = Step::random(&models, &mut random);
            let name = format!("{step:?}");
            let words = name.split(|letter: char| !letter.is_alphabetic());
            kinds.extend(words.map(str::to_owned));
            take(&mut models, &step, mark);
            for model in &models {
                let serving = model
                    .units
                    .iter()
                    .filter(|unit| unit.state == State::Serves);
                assert!(serving.count() >= FEWEST, "{step:?}: {model:?}");
                assert!(model.listening().count() <= MOST + 2, "{step:?}: {model:?}");
                assert!(!model.eligible().is_empty());
            }
        }
        for kind in [
            "Retire",
            "End",
            "Kill",
            "Replace",
            "Freeze",
            "Thaw",
            "Evict",
            "Pause",
            "Again",
            "Weight",
            "Drain",
            "Undrain",
            "HalfOpen",
            "StopInReload",
            "Detach",
            "Attach",
        ] {
            assert!(kinds.contains(kind), "never {kind}");
        }
    }

    #[test]
    fn several_loaders_start_stop_and_die_at_one_moment() {
        let mut random = Random::new(1);
        let mut models = host();
        for model in &mut models {
            model.attach(Policy::Rr);
        }
        let steps = (0..2000).map(|_| Step::random(&models, &mut random));
        let several = steps.filter(|step| matches!(step, Step::Loaders(leads) if leads.len() == 3));
        let mixed = several.filter(|step| {
            let Step::Loaders(leads) = step else {
                return false;
            };
            leads.iter().any(|(_, lead)| *lead == Lead::Kill)
                && leads.iter().any(|(_, lead)| *lead == Lead::Reload)
        });
        assert!(mixed.count() > 10);
    }
}
