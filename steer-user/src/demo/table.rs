//! What the demo measured, and the table that shows it.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    time::Duration,
};

use steer_common::quantile;

use super::client::{Outcome, Shot};

/// The rounds under one policy.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    name: &'static str,
    spread: usize,
    last_answers: Vec<Duration>,
}

impl Rounds {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            spread: 0,
            last_answers: Vec::new(),
        }
    }

    /// Counts a round.
    ///
    /// # Errors
    /// The outcome of a connection that wasn't served.
    pub(super) fn add(&mut self, shots: &[Shot]) -> Result<(), Outcome> {
        let mut workers = BTreeSet::new();
        for shot in shots {
            match &shot.outcome {
                Outcome::Served(pid) => workers.insert(*pid),
                lost @ (Outcome::Reset | Outcome::Refused | Outcome::Hung | Outcome::Broken(_)) => {
                    return Err(lost.clone());
                }
            };
        }
        self.spread += usize::from(workers.len() == shots.len());
        let last = shots.iter().map(|shot| shot.took).max();
        self.last_answers.extend(last);
        Ok(())
    }

    /// The time to the last answer that this many percent of the rounds didn't exceed.
    fn quantile(&self, percent: u64) -> Duration {
        let mut sorted = self.last_answers.clone();
        sorted.sort_unstable();
        quantile::lower(&sorted, percent).unwrap_or_default()
    }
}

/// The table of all policies' rounds.
pub(super) struct Table<'a>(pub(super) &'a [Rounds]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}  {:^28}  {:^23}",
            "", "rounds in which all three", "time to the last answer"
        )?;
        writeln!(
            f,
            "{:<12}  {:^28}  {:>10}  {:>11}",
            "policy", "hit different workers", "p50", "max"
        )?;
        for rounds in self.0 {
            let total = rounds.last_answers.len();
            let share = 100.0 * rounds.spread as f64 / total.max(1) as f64;
            let mut spread = String::new();
            write!(spread, "{} of {total}  {share:>3.0} %", rounds.spread)?;
            writeln!(
                f,
                "{:<12}  {spread:^28}  {:>7} ms  {:>8} ms",
                rounds.name,
                rounds.quantile(50).as_millis(),
                rounds.quantile(100).as_millis(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shots(workers: [u32; 3], milliseconds: [u64; 3]) -> Vec<Shot> {
        workers
            .into_iter()
            .zip(milliseconds)
            .map(|(pid, took)| Shot {
                outcome: Outcome::Served(pid),
                took: Duration::from_millis(took),
            })
            .collect()
    }

    #[test]
    fn a_round_counts_as_spread_only_if_no_two_share_a_worker() {
        let mut rounds = Rounds::new("kernel hash");
        rounds.add(&shots([1, 2, 3], [60, 61, 62])).expect("served");
        rounds
            .add(&shots([1, 2, 1], [60, 61, 121]))
            .expect("served");
        rounds
            .add(&shots([3, 3, 3], [60, 121, 182]))
            .expect("served");
        assert_eq!(rounds.spread, 1);
        assert_eq!(rounds.quantile(50), Duration::from_millis(121));
        assert_eq!(rounds.quantile(100), Duration::from_millis(182));
        let table = Table(&[rounds]).to_string();
        assert!(table.contains("1 of 3   33 %"), "{table}");
        assert!(table.contains("121 ms       182 ms"), "{table}");
    }

    #[test]
    fn a_lost_connection_ends_the_measurement() {
        let mut rounds = Rounds::new("rr");
        let mut lost = shots([1, 2, 3], [60, 61, 62]);
        lost[1].outcome = Outcome::Reset;
        assert_eq!(rounds.add(&lost), Err(Outcome::Reset));
    }
}
