//! How the connections of a run ended, those that were lost by whether a worker had accepted them.

use super::{
    claims::{Cause, Claims},
    load::{Attempt, End, Run},
};

/// Connections by how they ended. Nothing is left out of it.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Opened.
    pub sent: usize,
    /// Answered.
    pub served: usize,
    /// Of these, by another worker than the one whose listener they were established with, where
    /// listeners have marks.
    pub moved: usize,
    /// Reset or cut off, and a worker that has ended had accepted them.
    pub accepted: usize,
    /// Of these, by one that was to finish what it has accepted.
    pub unfinished: usize,
    /// Reset or cut off while they were being established, at the moment at which a listener
    /// closed.
    pub closing: usize,
    /// Reset or cut off before any worker accepted them.
    pub waiting: Vec<Attempt>,
    /// Nobody listened.
    pub refused: usize,
    /// Neither an answer nor an end.
    pub hung: usize,
    /// Anything else.
    pub broken: Vec<String>,
}

impl Ends {
    /// Counts the connections of a run, given what the workers that ended had accepted.
    pub fn new(run: &Run, mut claims: Claims) -> Self {
        let mut ends = Self {
            sent: run.sent,
            ..Self::default()
        };
        for attempt in &run.attempts {
            match &attempt.end {
                End::Served | End::Moved(_) => {
                    ends.served += 1;
                    ends.moved += usize::from(attempt.end != End::Served);
                }
                End::Reset | End::Cut => match claims.cause(attempt) {
                    cause @ (Cause::Accepted | Cause::Unfinished) => {
                        ends.accepted += 1;
                        ends.unfinished += usize::from(cause == Cause::Unfinished);
                    }
                    Cause::Closing => ends.closing += 1,
                    Cause::Waiting => ends.waiting.push(attempt.clone()),
                },
                End::Refused => ends.refused += 1,
                End::Hung => ends.hung += 1,
                End::Broken(why) => ends.broken.push(why.clone()),
            }
        }
        ends
    }

    /// Not served.
    pub fn lost(&self) -> usize {
        self.accepted + self.closing + self.waiting.len() + self.refused + self.hung
    }

    /// Whether sent = served + reset + refused + hung, and nothing else.
    pub fn adds_up(&self) -> bool {
        self.broken.is_empty() && self.sent == self.served + self.lost()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn attempt(port: u16, end: End) -> Attempt {
        Attempt {
            port,
            opened: Duration::from_millis(10),
            connected: Some(Duration::from_millis(10)),
            ended: Duration::from_millis(20),
            worker: Some(1),
            end,
        }
    }

    fn ends(sent: usize) -> Ends {
        let run = Run {
            sent,
            attempts: vec![
                attempt(1, End::Served),
                attempt(2, End::Moved(2)),
                attempt(3, End::Reset),
                attempt(4, End::Cut),
                attempt(5, End::Refused),
                attempt(6, End::Hung),
            ],
        };
        let mut claims = Claims::default();
        let ended = Duration::from_millis(16);
        claims.add("accepted 4 15000000\n", ended..=ended);
        Ends::new(&run, claims)
    }

    #[test]
    fn every_connection_is_counted_once() {
        let ends = ends(6);
        assert!(ends.adds_up(), "{ends:?}");
        assert_eq!((ends.served, ends.moved), (2, 1));
        assert_eq!((ends.accepted, ends.waiting.len()), (1, 1));
        assert_eq!((ends.refused, ends.hung), (1, 1));
    }

    #[test]
    fn one_that_is_missing_is_noticed() {
        assert!(!ends(7).adds_up());
    }
}
