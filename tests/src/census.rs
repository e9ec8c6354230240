//! What became of every connection that was opened.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::ensure;
use steer_user::demo::client::{self, Outcome, Shot, Target};

use crate::patience::patience;

/// When a connection without an answer counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections by what became of them. Nothing is ever left out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Opened.
    pub sent: usize,
    /// Answered, by pid.
    pub served: BTreeMap<u32, usize>,
    /// Reset.
    pub reset: usize,
    /// Refused.
    pub refused: usize,
    /// Neither answered nor ended.
    pub hung: usize,
    /// Anything else, in words.
    pub broken: Vec<String>,
}

impl Census {
    /// Adds connections: how many were opened, and what came of them.
    pub fn add(&mut self, sent: usize, shots: &[Shot]) {
        self.sent += sent;
        for shot in shots {
            match &shot.outcome {
                Outcome::Served(pid) => *self.served.entry(*pid).or_default() += 1,
                Outcome::Reset => self.reset += 1,
                Outcome::Refused => self.refused += 1,
                Outcome::Hung => self.hung += 1,
                Outcome::Broken(why) => self.broken.push(why.clone()),
            }
        }
    }

    /// Connections that were answered.
    pub fn answered(&self) -> usize {
        self.served.values().sum()
    }

    /// Checks that sent = served + reset + refused + hung.
    ///
    /// # Errors
    /// When it isn't.
    pub fn check(&self) -> anyhow::Result<()> {
        let accounted = self.answered() + self.reset + self.refused + self.hung;
        ensure!(self.sent == accounted, "not accounted for: {self:?}");
        Ok(())
    }

    /// Checks that all were answered, by these workers and exactly `each` by every one.
    ///
    /// # Errors
    /// When they weren't.
    pub fn exactly(&self, workers: &[u32], each: usize) -> anyhow::Result<()> {
        let wanted = workers.iter().map(|pid| (*pid, each)).collect();
        ensure!(
            self.served == wanted && self.sent == self.answered(),
            "not {each} for each of {workers:?}: {self:?}"
        );
        Ok(())
    }
}

/// The root of the test workers at an address.
pub fn root(address: SocketAddr) -> Target {
    Target {
        address,
        path: "/".to_owned(),
        patience: patience(PATIENCE),
    }
}

/// `count` connections one after the other.
///
/// # Errors
/// When the client can't be set up.
pub fn one_by_one(address: SocketAddr, count: usize) -> anyhow::Result<Census> {
    let mut census = Census::default();
    census.add(count, &client::one_by_one(&root(address), count)?);
    Ok(census)
}

/// Whether `address` is steered by `rr` over `workers` workers: each of 20 times `workers`
/// sequential connections goes to another worker than the `workers - 1` before it. Under the
/// kernel's hash that doesn't happen.
///
/// # Errors
/// When the client can't be set up or a connection wasn't served.
pub fn takes_turns(address: SocketAddr, workers: usize) -> anyhow::Result<bool> {
    for _ in 0..20 {
        let round = one_by_one(address, workers)?;
        ensure!(round.answered() == workers, "lost connections: {round:?}");
        if round.served.len() != workers {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_broken_is_not_accounted_for() {
        let shot = |outcome| Shot {
            outcome,
            took: Duration::ZERO,
        };
        let shots = [
            shot(Outcome::Served(7)),
            shot(Outcome::Served(7)),
            shot(Outcome::Served(8)),
            shot(Outcome::Reset),
            shot(Outcome::Refused),
            shot(Outcome::Hung),
        ];
        let mut census = Census::default();
        census.add(6, &shots);
        census.check().expect("all accounted for");
        census.exactly(&[7, 8], 2).expect_err("8 has one only");
        let mut missing = census.clone();
        missing.add(1, &[]);
        missing.check().expect_err("one is missing");
        census.add(1, &[shot(Outcome::Broken("nonsense".to_owned()))]);
        census.check().expect_err("one is broken");
    }
}
