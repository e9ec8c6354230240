//! One way to give connections to workers at one load, for all seeds together.

use steer_common::{
    policy::Policy,
    sim::{self, Discipline, Setting, Waits, ns},
};

use super::{Arrivals, real::Report};

/// Round trip of the simulated clients in ms. That is about what a handshake and the worker's
/// waking up take on loopback.
const RTT: f64 = 0.1;

/// After this many ms without progress steer skips a worker, unless told otherwise.
const EJECT_AFTER: f64 = 1000.0;

/// The workers, as measured.
pub(super) struct Rig {
    pub(super) workers: usize,
    /// What a request takes on top of its service time, in ms.
    pub(super) overhead: f64,
    /// The capacity of all workers together, in requests a second.
    pub(super) capacity: f64,
}

/// A row of the table.
pub(super) struct Cell {
    /// The load in percent of the capacity.
    pub(super) load: f64,
    pub(super) by: Discipline,
    /// Waits of first requests, in nanoseconds.
    waits: Vec<u64>,
    /// What the runs were like; none if the row is simulated.
    pub(super) runs: Option<Runs>,
}

/// What the measured runs were like.
#[derive(Default)]
pub(super) struct Runs {
    /// The largest overhead of all runs, in ms.
    pub(super) overhead: f64,
    /// In every run 99 % of the connections came less late than this many ms.
    pub(super) late: f64,
    /// How many connections were given to a worker that had something to do while another worker
    /// had nothing to do.
    pub(super) misplaced: u64,
    /// How many connections there were in all.
    pub(super) connections: u64,
}

impl Cell {
    pub(super) fn measured(load: f64, by: Discipline) -> Self {
        Self {
            load,
            by,
            waits: Vec::new(),
            runs: Some(Runs::default()),
        }
    }

    pub(super) fn simulated(load: f64, by: Discipline, rig: &Rig, seeds: &[Arrivals]) -> Self {
        let waits = seeds.iter().flat_map(|arrivals| {
            let setting = Setting {
                workers: rig.workers,
                discipline: by,
                overhead: ns(rig.overhead),
                rtt: ns(RTT),
                clients: 1,
                stuck: 0,
                stuck_for: 0,
                slow: 0,
                slow_by: 1.0,
                eject_after: ns(EJECT_AFTER),
                off: Vec::new(),
                measured_from: arrivals.measured_from as u32,
            };
            sim::simulate(setting, &arrivals.connections).first
        });
        Self {
            load,
            by,
            waits: waits.collect(),
            runs: None,
        }
    }

    /// Adds a measured run.
    pub(super) fn add(&mut self, report: &Report, measured_from: usize) {
        let measured = report.first.iter().skip(measured_from);
        self.waits.extend(measured.flatten());
        let runs = self.runs.get_or_insert_default();
        runs.overhead = runs.overhead.max(report.overhead);
        runs.late = runs.late.max(report.late);
        runs.misplaced += report.misplaced;
        runs.connections += report.first.len() as u64;
    }

    /// steer's policy in a measured run. None for the hash, which is the kernel's own: steer isn't
    /// there.
    pub(super) fn policy(&self) -> Option<Policy> {
        self.by.policy().filter(|policy| *policy != Policy::Hash)
    }

    pub(super) fn is_measured(&self) -> bool {
        self.runs.is_some()
    }

    pub(super) fn name(&self) -> String {
        self.by.to_string()
    }

    pub(super) fn waits(&self) -> Waits {
        Waits::of(&mut self.waits.clone())
    }
}
