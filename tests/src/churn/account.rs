//! What became of all connections, and whether each one that was lost is explained by a worker that
//! left.

use std::collections::BTreeMap;

use super::{
    crew::{Crew, How, Left, Outage},
    load::{Attempt, End, Run},
    spread::Spread,
};

/// Connections by how they ended. Nothing is left out of it.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Opened.
    pub sent: usize,
    /// Answered.
    pub served: usize,
    /// Of these, by another worker than the one whose listener they were established with.
    pub moved: usize,
    /// Ended before the whole answer by a worker that was sent SIGKILL.
    pub killed: usize,
    /// The same by a worker that was sent SIGTERM: established after it had last looked whether a
    /// connection waited, and before it had closed its listener. Where connections migrate, only while
    /// all workers restarted at once, or before the client knew that it was established: for such a
    /// moment the kernel asks nobody (docs/restarts.md).
    pub closing: usize,
    /// Nobody listened.
    pub refused: usize,
    /// Neither an answer nor an end.
    pub hung: usize,
    /// Anything else.
    pub broken: Vec<String>,
    /// Those that were reset or refused without anybody's fault.
    pub unexplained: Vec<String>,
    /// How long the served ones took.
    pub took: Spread,
}

impl Account {
    /// Accounts for a run over a crew, of whose closing listeners connections migrate or don't.
    pub fn new(run: &Run, crew: &Crew, migrates: bool) -> Self {
        let left: BTreeMap<u32, Left> = crew.left.iter().map(|left| (left.mark, *left)).collect();
        let mut account = Self {
            sent: run.sent,
            ..Self::default()
        };
        for attempt in &run.attempts {
            account.add(attempt, &left, &crew.outages, migrates);
        }
        account
    }

    /// Ended before the whole answer.
    pub fn reset(&self) -> usize {
        self.killed + self.closing
    }

    /// Whether sent = served + reset + refused + hung, none of them unexplained.
    pub fn adds_up(&self) -> bool {
        self.sent == self.served + self.reset() + self.refused + self.hung
            && self.unexplained.is_empty()
            && self.broken.is_empty()
    }

    fn add(
        &mut self,
        attempt: &Attempt,
        left: &BTreeMap<u32, Left>,
        outages: &[Outage],
        migrates: bool,
    ) {
        let in_outage = || {
            let overlaps =
                |outage: &Outage| attempt.opened <= outage.to && attempt.ended >= outage.from;
            outages.iter().any(overlaps)
        };
        let killed_meanwhile = || {
            left.values().any(|left| {
                matches!(left.how, How::Killed)
                    && (attempt.opened..=attempt.ended).contains(&left.signalled)
            })
        };
        match &attempt.end {
            End::Moved(worker) if !migrates => {
                let why = format!("{attempt:?}: answered by {worker}");
                self.unexplained.push(why);
            }
            End::Served | End::Moved(_) => {
                self.served += 1;
                self.moved += usize::from(attempt.end != End::Served);
                self.took.add(attempt.ended.saturating_sub(attempt.opened));
            }
            End::Reset | End::Cut => {
                let left = attempt.worker.and_then(|worker| left.get(&worker));
                match left.map(|left| (left, left.how)) {
                    Some((left, How::Killed)) if attempt.ended >= left.signalled => {
                        self.killed += 1;
                    }
                    Some((_, How::Stopped { drained, closed }))
                        if (in_outage() || !migrates || attempt.connected.is_none())
                            && attempt.opened <= closed
                            && attempt.connected.unwrap_or(attempt.ended) >= drained =>
                    {
                        self.closing += 1;
                    }
                    // It had migrated to a worker that was killed next.
                    Some((_, How::Stopped { .. })) if migrates && killed_meanwhile() => {
                        self.killed += 1;
                    }
                    _ => self.unexplained.push(format!("{attempt:?} by {left:?}")),
                }
            }
            End::Refused => {
                if in_outage() {
                    self.refused += 1;
                } else {
                    self.unexplained.push(format!("{attempt:?}"));
                }
            }
            End::Hung => self.hung += 1,
            End::Broken(why) => self.broken.push(why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn attempt(worker: u32, from: u64, to: u64, end: End) -> Attempt {
        Attempt {
            port: 0,
            opened: at(from),
            connected: Some(at(from)),
            ended: at(to),
            worker: Some(worker),
            end,
        }
    }

    fn account(attempts: &[Attempt], migrates: bool) -> Account {
        let stopped = How::Stopped {
            drained: at(110),
            closed: at(111),
        };
        let left = [(1, How::Killed), (2, stopped)].map(|(mark, how)| {
            let signalled = at(100);
            (
                mark,
                Left {
                    mark,
                    signalled,
                    how,
                },
            )
        });
        let outages = [Outage {
            from: at(200),
            to: at(220),
        }];
        let mut account = Account {
            sent: attempts.len(),
            ..Account::default()
        };
        for attempt in attempts {
            account.add(attempt, &BTreeMap::from(left), &outages, migrates);
        }
        account
    }

    #[test]
    fn what_a_leaving_worker_explains() {
        let attempts = [
            attempt(1, 90, 101, End::Reset),
            attempt(1, 90, 101, End::Cut),
            attempt(2, 110, 112, End::Reset),
            attempt(3, 90, 92, End::Served),
            attempt(0, 210, 211, End::Refused),
        ];
        // Outside of a restart nothing is lost to a worker that closes, but with its heir.
        let migrated = account(&attempts, true);
        assert_eq!(migrated.unexplained.len(), 1, "{migrated:?}");
        let heir = attempt(2, 99, 112, End::Reset);
        assert_eq!(account(&[heir], true).killed, 1);
        let mut early = attempt(2, 110, 112, End::Reset);
        early.connected = None;
        assert_eq!(account(&[early], true).closing, 1);
        let moved = attempt(2, 110, 112, End::Moved(3));
        assert_eq!(account(std::slice::from_ref(&moved), true).moved, 1);
        assert!(!account(&[moved], false).adds_up());
        let account = account(&attempts, false);
        assert!(account.adds_up(), "{account:?}");
        assert_eq!((account.killed, account.closing), (2, 1));
        assert_eq!((account.served, account.refused), (1, 1));
    }

    #[test]
    fn what_nothing_explains() {
        for attempt in [
            // Before the signal.
            attempt(1, 90, 99, End::Reset),
            // It waited when the worker drained its accept queue.
            attempt(2, 90, 112, End::Reset),
            // Its worker stays.
            attempt(3, 90, 112, End::Cut),
            // Others listened.
            attempt(0, 190, 199, End::Refused),
            attempt(0, 221, 222, End::Refused),
            attempt(3, 90, 92, End::Broken("no HTTP".into())),
        ] {
            assert!(
                !account(std::slice::from_ref(&attempt), false).adds_up(),
                "{attempt:?}"
            );
        }
    }

    #[test]
    fn one_that_is_missing_is_noticed() {
        let mut account = account(&[attempt(3, 90, 92, End::Served)], true);
        account.sent += 1;
        assert!(!account.adds_up());
    }
}
