//! What must be so after each step.

use std::collections::BTreeMap;

use steer_common::policy::Policy;

use super::words::Kind;

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The number that its answers carry.
    pub mark: u32,
    /// The kernel's number.
    pub cookie: u64,
    /// The process that serves it.
    pub pid: u32,
    /// The process that steer names: one that served it before, for as long as that runs. Nothing tells that
    /// it doesn't poll any more.
    pub named: u32,
    /// A loader has had the chance to see it.
    pub known: bool,
    /// What steer is to do with it.
    pub rules: Rules,
    /// Whether these may have been lost: the listener was shut down meanwhile.
    pub unsure: bool,
}

/// What steer is to do with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Its share.
    pub weight: u32,
    /// Not selected while there is another.
    pub draining: bool,
}

impl Rules {
    /// Of a worker that nothing was said of.
    pub const NONE: Self = Self {
        weight: 1,
        draining: false,
    };
}

/// What a unit is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Serves,
    /// Stopped by SIGSTOP.
    Frozen,
    /// Its listeners are shut down for a while.
    Paused,
    /// Its listeners are closed for good, and connections are open still.
    Retired,
}

/// Workers that are started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// How they work.
    pub kind: Kind,
    /// What it is at.
    pub state: State,
    /// Its listeners, also those that are closed.
    pub listeners: Vec<Listener>,
    /// Processes that served a listener before another one of the unit did, and may have connections.
    pub former: Vec<u32>,
    /// Of these, those that had been replaced when steer began to count: nothing tells it whose their
    /// connections are.
    pub uncounted: Vec<u32>,
}

impl Unit {
    /// One that serves.
    pub fn new(kind: Kind, listeners: Vec<Listener>) -> Self {
        Self {
            kind,
            state: State::Serves,
            listeners,
            former: Vec::new(),
            uncounted: Vec::new(),
        }
    }

    /// Whether its listeners listen.
    pub fn listens(&self) -> bool {
        matches!(self.state, State::Serves | State::Frozen)
    }

    /// Whether steer has all of its listeners.
    pub fn is_known(&self) -> bool {
        self.listeners.iter().all(|listener| listener.known)
    }
}

/// Whether steer steers the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steered {
    /// It doesn't.
    No,
    /// Its programs do, and nobody follows the workers.
    Alone(Policy),
    /// A loader follows the workers.
    Followed(Policy),
}

impl Steered {
    /// The policy.
    pub const fn policy(self) -> Option<Policy> {
        match self {
            Self::No => None,
            Self::Alone(policy) | Self::Followed(policy) => Some(policy),
        }
    }

    /// The same under another policy.
    #[must_use]
    pub const fn under(self, policy: Policy) -> Self {
        match self {
            Self::No => Self::No,
            Self::Alone(_) => Self::Alone(policy),
            Self::Followed(_) => Self::Followed(policy),
        }
    }
}

/// A port.
#[derive(Clone, Debug)]
pub struct Model {
    /// Whether it is steered.
    pub steered: Steered,
    /// Its workers, the oldest first.
    pub units: Vec<Unit>,
}

impl Model {
    /// Unsteered, and without workers.
    pub const fn new() -> Self {
        Self {
            steered: Steered::No,
            units: Vec::new(),
        }
    }

    /// Whether a loader follows.
    pub const fn is_followed(&self) -> bool {
        matches!(self.steered, Steered::Followed(_))
    }

    /// Workers begin to listen.
    pub fn join(&mut self, unit: Unit) {
        self.units.push(unit);
        let place = self.units.len() - 1;
        self.listen(place);
    }

    /// The listeners of a unit begin to listen, or do again.
    pub fn listen(&mut self, place: usize) {
        let known = self.is_followed();
        let unit = &mut self.units[place];
        unit.state = State::Serves;
        for listener in &mut unit.listeners {
            listener.known = known;
        }
    }

    /// The listeners of a unit are shut down.
    pub fn pause(&mut self, place: usize) {
        let unit = &mut self.units[place];
        unit.state = State::Paused;
        for listener in &mut unit.listeners {
            listener.known = false;
            listener.unsure = true;
        }
    }

    /// A loader begins to follow the workers.
    pub fn attach(&mut self, policy: Policy) {
        let anew = self.steered == Steered::No;
        self.steered = Steered::Followed(policy);
        for unit in &mut self.units {
            // Also of one that came while nobody followed.
            if anew || !unit.is_known() {
                unit.uncounted.clone_from(&unit.former);
            }
            if unit.listens() {
                for listener in &mut unit.listeners {
                    listener.known = true;
                }
            }
        }
    }

    /// Steer leaves without a trace.
    pub fn detach(&mut self) {
        self.steered = Steered::No;
        for unit in &mut self.units {
            for listener in &mut unit.listeners {
                listener.known = false;
                listener.rules = Rules::NONE;
                listener.unsure = false;
            }
        }
    }

    /// All listeners that listen, with their units.
    pub fn listening(&self) -> impl Iterator<Item = (&Unit, &Listener)> {
        let units = self.units.iter().filter(|unit| unit.listens());
        units.flat_map(|unit| unit.listeners.iter().map(move |listener| (unit, listener)))
    }

    /// Those of them that steer has, by cookie.
    pub fn known(&self) -> BTreeMap<u64, Listener> {
        let known = self.listening().filter(|(_, listener)| listener.known);
        known
            .map(|(_, listener)| (listener.cookie, *listener))
            .collect()
    }

    /// Changes the rules of every listener that a process serves.
    pub fn change(&mut self, pid: u32, change: impl Fn(&mut Rules)) {
        let units = self.units.iter_mut().filter(|unit| unit.listens());
        let listeners = units.flat_map(|unit| &mut unit.listeners);
        for listener in listeners.filter(|listener| listener.known && listener.named == pid) {
            change(&mut listener.rules);
        }
    }

    /// The marks of those that may be given connections: all, unless some are draining and others aren't.
    pub fn eligible(&self) -> Vec<u32> {
        let fits = |listener: &Listener| !(listener.known && listener.rules.draining);
        let marks = |fits: &dyn Fn(&Listener) -> bool| -> Vec<u32> {
            let all = self.listening().filter(|(_, listener)| fits(listener));
            all.map(|(_, listener)| listener.mark).collect()
        };
        let ready = marks(&fits);
        if ready.is_empty() {
            marks(&|_| true)
        } else {
            ready
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}
