//! Connections at exactly the same time, and how evenly they are spread.
//!
//! `rr` spreads each burst evenly however long its connections take to come. To `least` those that come
//! late are no burst: on a busy machine the client may be interrupted until a worker has finished. So
//! what it does is compared with what the hash did in the same run.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::ensure;
use steer_user::demo::client;

use crate::{
    census::{self, Census},
    patience::is_slow,
    workers::local,
};

/// How much less uneven than under the hash bursts must be.
const LESS: usize = 3;

/// Rounds of connections at exactly the same time, each of which blocks its worker.
#[derive(Debug)]
pub struct Bursts {
    /// Connections of a round.
    count: usize,
    block: Duration,
    /// Rounds in which every worker got the same.
    pub even: usize,
    /// Connections that had to wait for another one although a worker had fewer, of all rounds.
    pub uneven: usize,
    first_uneven: Option<Census>,
    /// From the start of each round to its last answer, in order of length.
    last_answers: Vec<Duration>,
}

impl Bursts {
    /// `rounds` times `each` connections for each of the workers.
    ///
    /// # Errors
    /// When the client can't be set up, or a connection isn't answered by one of the workers.
    pub fn run(
        port: u16,
        workers: &[u32],
        each: usize,
        rounds: usize,
        block: Duration,
    ) -> anyhow::Result<Self> {
        let count = each * workers.len();
        let root = census::root(local(port));
        let target = client::Target {
            path: format!("/block?ms={}", block.as_millis()),
            // Under the hash all of them may wait for one worker.
            patience: root.patience + block * count as u32,
            ..root
        };
        let mut bursts = Self {
            count,
            block,
            even: 0,
            uneven: 0,
            first_uneven: None,
            last_answers: Vec::with_capacity(rounds),
        };
        for _ in 0..rounds {
            let start = Instant::now();
            let shots = client::fire(&target, count)?;
            bursts.last_answers.push(start.elapsed());
            let mut census = Census::default();
            census.add(count, &shots);
            ensure!(census.answered() == count, "lost connections: {census:?}");
            ensure!(
                census.served.keys().all(|pid| workers.contains(pid)),
                "others than {workers:?}: {census:?}"
            );
            let surplus: usize = census.served.values().map(|n| n.saturating_sub(each)).sum();
            bursts.uneven += surplus;
            if surplus == 0 {
                bursts.even += 1;
            } else if bursts.first_uneven.is_none() {
                bursts.first_uneven = Some(census);
            }
        }
        bursts.last_answers.sort_unstable();
        Ok(bursts)
    }

    /// Checks that a policy spread them as it must, given what the hash made of as many.
    ///
    /// # Errors
    /// When it didn't.
    pub fn check(&self, policy: &str, hash: &Self) -> anyhow::Result<()> {
        let holds = match policy {
            "rr" => self.uneven == 0,
            // Where the processor is emulated, no connections come at the same time.
            "least" => is_slow() || self.uneven * LESS <= hash.uneven,
            _ => anyhow::bail!("{policy} spreads nothing evenly"),
        };
        ensure!(
            holds,
            "{policy}: {self}; the first that wasn't: {:?}; under the hash: {hash}",
            self.first_uneven
        );
        Ok(())
    }
}

impl fmt::Display for Bursts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.last_answers.len();
        let ms = |place: usize| self.last_answers[place].as_millis();
        write!(
            f,
            "{} at once, blocking {} ms: {} of {rounds} rounds even, {} connections on the wrong \
             worker, last answer p50 {} ms, max {} ms",
            self.count,
            self.block.as_millis(),
            self.even,
            self.uneven,
            ms(rounds / 2),
            ms(rounds - 1),
        )
    }
}
