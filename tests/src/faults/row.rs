//! What came of one fault under one rule: every connection, and what was checked.

use std::time::Duration;

use crate::{Outcome, Shot, census::Census, churn::spread::Spread};

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What decided where connections went.
    pub by: String,
    /// What became of every connection.
    pub census: Census,
    /// How long the answers took.
    pub took: Spread,
    /// What was checked and held.
    pub held: Vec<String>,
    /// What was checked and didn't.
    pub failed: Vec<String>,
}

impl Row {
    /// A row without connections so far.
    pub fn new(by: impl Into<String>) -> Self {
        Self {
            by: by.into(),
            census: Census::default(),
            took: Spread::default(),
            held: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// A fault that could not be injected.
    pub(super) fn failed(error: &anyhow::Error) -> Self {
        let mut row = Self::new("-");
        row.failed.push(format!("{error:#}"));
        row
    }

    /// Adds connections: how many were opened, and what came of them.
    ///
    /// One that its worker's end closed in good order before the whole answer, as the kernel does
    /// where the request was read already, is as lost as one that was reset.
    pub(super) fn add(&mut self, sent: usize, shots: &[Shot]) {
        let shots: Vec<Shot> = shots.iter().cloned().map(cut_is_reset).collect();
        for shot in &shots {
            if matches!(shot.outcome, Outcome::Served(_)) {
                self.took.add(shot.took);
            }
        }
        self.census.add(sent, &shots);
    }

    /// Adds connections that were counted already.
    pub(super) fn add_census(&mut self, census: Census) {
        self.census.sent += census.sent;
        for (pid, count) in census.served {
            *self.census.served.entry(pid).or_default() += count;
        }
        self.census.reset += census.reset;
        self.census.refused += census.refused;
        self.census.hung += census.hung;
        self.census.broken.extend(census.broken);
    }

    /// Writes down whether something held.
    pub(super) fn check(&mut self, holds: bool, what: impl Into<String>) {
        if holds {
            self.held.push(what.into());
        } else {
            self.failed.push(what.into());
        }
    }

    /// Checks that every connection was answered.
    pub(super) fn check_all_served(&mut self) {
        let Census { sent, .. } = self.census;
        let served = self.census.answered();
        if served != sent {
            self.failed.push(format!("only {served} of {sent} served"));
        }
    }

    /// Whether all that was checked held, and every connection is accounted for.
    pub fn holds(&self) -> bool {
        self.failed.is_empty() && self.census.check().is_ok()
    }

    /// Whether it says more than what became of its connections.
    pub fn is_checked(&self) -> bool {
        !self.held.is_empty() || !self.failed.is_empty()
    }

    /// How many answers took longer.
    pub(super) fn later_than(&self, limit: Duration) -> usize {
        self.took.over(limit)
    }
}

fn cut_is_reset(mut shot: Shot) -> Shot {
    if matches!(&shot.outcome, Outcome::Broken(why) if why.starts_with("closed ")) {
        shot.outcome = Outcome::Reset;
    }
    shot
}
