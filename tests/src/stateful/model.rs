//! What must be so after each step.

use std::collections::BTreeMap;

use steer_common::policy::Policy;

/// A worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its process.
    pub pid: u32,
    /// Stopped by SIGSTOP.
    pub paused: bool,
    /// A loader has had the chance to see it.
    pub known: bool,
    /// What steer is to do with it.
    pub rules: Rules,
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

/// The port.
#[derive(Clone, Debug)]
pub struct Model {
    /// Whether it is steered.
    pub steered: Steered,
    /// Its workers, the oldest first.
    pub workers: Vec<Worker>,
}

impl Model {
    /// Unsteered, and without workers.
    pub const fn new() -> Self {
        Self {
            steered: Steered::No,
            workers: Vec::new(),
        }
    }

    /// A worker begins to listen.
    pub fn join(&mut self, pid: u32) {
        self.workers.push(Worker {
            pid,
            paused: false,
            known: matches!(self.steered, Steered::Followed(_)),
            rules: Rules::NONE,
        });
    }

    /// A loader begins to follow the workers.
    pub fn attach(&mut self, policy: Policy) {
        self.steered = Steered::Followed(policy);
        for worker in &mut self.workers {
            worker.known = true;
        }
    }

    /// Steer leaves without a trace.
    pub fn detach(&mut self) {
        self.steered = Steered::No;
        for worker in &mut self.workers {
            worker.known = false;
            worker.rules = Rules::NONE;
        }
    }

    /// What the maps must say of the workers that steer has seen, by pid.
    pub fn rules(&self) -> BTreeMap<u32, Rules> {
        let known = self.workers.iter().filter(|worker| worker.known);
        known.map(|worker| (worker.pid, worker.rules)).collect()
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}
