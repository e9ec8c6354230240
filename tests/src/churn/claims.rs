//! What workers had accepted, and when their listeners closed, by what they announce themselves.
//!
//! Three kinds of lines say what: `accepting` before each accept(), then `accepted <client's port>
//! <time>` or `nothing`. Two more say from when to when its listener may have been open and closing:
//! `drained <time>` and `closed <time>`; `paused <time>` in the latter's place where it will listen again.
//! They go to a pipe or a file, which a SIGKILL can't take back.

use std::{ops::RangeInclusive, time::Duration};

use super::load::Attempt;

/// What a worker announces before it calls accept().
pub const ACCEPTING: &str = "accepting";

/// What it announces after an accept() that had nothing for it.
pub const NOTHING: &str = "nothing";

/// What it announces after any other.
pub fn accepted(port: u16, at: Duration) -> String {
    format!("accepted {port} {}", at.as_nanos())
}

/// What the workers that have ended had accepted.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The client's port, when, and whether the worker went on to finish it.
    accepted: Vec<(u16, Duration, bool)>,
    /// From when to when a worker ended that had announced an accept() and not its outcome, which
    /// may have been one connection.
    doubts: Vec<RangeInclusive<Duration>>,
    /// From when to when a listener closed.
    closings: Vec<RangeInclusive<Duration>>,
}

/// Why a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A worker that has ended had accepted it.
    Accepted,
    /// The same of a worker that was to finish what it has accepted.
    Unfinished,
    /// It was being established at the very moment at which a listener closed.
    Closing,
    /// It waited for a worker that ended, or there is no cause.
    Waiting,
}

impl Claims {
    /// Adds what a worker said that ended within that time.
    pub fn add(&mut self, said: &str, ended: RangeInclusive<Duration>) {
        let finishes = said.contains("closed ");
        let mut drained = None;
        let mut last = "";
        for line in said.lines().map(str::trim) {
            if let Some((port, at)) = line.strip_prefix("accepted ").and_then(claim) {
                self.accepted.push((port, at, finishes));
            } else if let Some(at) = line.strip_prefix("drained ").and_then(nanoseconds) {
                drained = Some(at);
            } else if let Some(at) = ["closed ", "paused "]
                .iter()
                .find_map(|word| line.strip_prefix(word).and_then(nanoseconds))
                && let Some(drained) = drained.take()
            {
                self.closings.push(drained..=at);
            }
            last = line;
        }
        if last == ACCEPTING {
            self.doubts.push(ended.clone());
        }
        if !finishes {
            self.closings.push(ended);
        }
    }

    /// Why a connection was reset or cut off.
    pub fn cause(&mut self, attempt: &Attempt) -> Cause {
        let lasted = attempt.opened..=attempt.ended;
        let mut claims = self.accepted.iter();
        let claim = claims.find(|(port, at, _)| *port == attempt.port && lasted.contains(at));
        match claim {
            Some((.., true)) => return Cause::Unfinished,
            Some((.., false)) => return Cause::Accepted,
            None => {}
        }
        // The client knows a little later than the worker's kernel that it is over.
        let handshake = attempt.opened..=attempt.connected.unwrap_or(attempt.ended);
        let overlap = |closing: &RangeInclusive<Duration>| overlap(closing, &handshake);
        if self.closings.iter().any(overlap) {
            return Cause::Closing;
        }
        // Each doubt excuses one connection.
        let doubt = |doubt: &RangeInclusive<Duration>| self::overlap(doubt, &lasted);
        if let Some(doubt) = self.doubts.iter().position(doubt) {
            self.doubts.swap_remove(doubt);
            return Cause::Accepted;
        }
        Cause::Waiting
    }
}

fn overlap(one: &RangeInclusive<Duration>, other: &RangeInclusive<Duration>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn claim(text: &str) -> Option<(u16, Duration)> {
    let (port, at) = text.split_once(' ')?;
    Some((port.parse().ok()?, nanoseconds(at)?))
}

fn nanoseconds(text: &str) -> Option<Duration> {
    Some(Duration::from_nanos(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{super::load::End, *};

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn lost(port: u16, opened: u64, connected: u64, ended: u64) -> Attempt {
        Attempt {
            port,
            opened: at(opened),
            connected: Some(at(connected)),
            ended: at(ended),
            worker: None,
            end: End::Reset,
        }
    }

    #[test]
    fn a_connection_is_known_by_its_port_and_its_time() {
        let mut claims = Claims::default();
        let said = format!("listening 1\n{ACCEPTING}\n{}\n", accepted(4711, at(20)));
        let said = format!("{said}{ACCEPTING}\n{NOTHING}\ndrained 30000000\nclosed 31000000\n");
        claims.add(&said, at(29)..=at(50));
        assert_eq!(claims.cause(&lost(4711, 10, 11, 40)), Cause::Unfinished);
        assert_eq!(claims.cause(&lost(4712, 10, 11, 40)), Cause::Waiting);
        assert_eq!(claims.cause(&lost(4711, 21, 22, 40)), Cause::Waiting);
        assert_eq!(claims.cause(&lost(4711, 10, 11, 19)), Cause::Waiting);
        assert_eq!(claims.cause(&lost(4711, 29, 30, 40)), Cause::Closing);
        assert_eq!(claims.cause(&lost(4711, 31, 32, 40)), Cause::Closing);
        assert_eq!(claims.cause(&lost(4711, 32, 33, 40)), Cause::Waiting);
    }

    #[test]
    fn one_that_listens_again_isnt_done() {
        let mut claims = Claims::default();
        let said = format!(
            "drained 30000000\npaused 31000000\n{}\n",
            accepted(1, at(50))
        );
        claims.add(&said, at(80)..=at(81));
        assert_eq!(claims.cause(&lost(2, 31, 32, 40)), Cause::Closing);
        assert_eq!(claims.cause(&lost(2, 32, 33, 40)), Cause::Waiting);
        assert_eq!(claims.cause(&lost(1, 49, 50, 82)), Cause::Accepted);
    }

    #[test]
    fn a_worker_that_is_killed_in_accept_explains_one_connection() {
        let mut claims = Claims::default();
        let said = format!("{}\n{ACCEPTING}", accepted(1, at(1)));
        claims.add(&said, at(30)..=at(31));
        assert_eq!(claims.cause(&lost(2, 32, 33, 40)), Cause::Waiting);
        assert_eq!(claims.cause(&lost(2, 10, 11, 40)), Cause::Accepted);
        assert_eq!(claims.cause(&lost(3, 10, 11, 40)), Cause::Waiting);
        assert_eq!(claims.cause(&lost(3, 29, 30, 40)), Cause::Closing);
    }
}
