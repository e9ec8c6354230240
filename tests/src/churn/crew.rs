//! The workers of a churned port: each is a process with a mark of its own, and whatever happens to
//! one is written down.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{claims::Claims, now};
use crate::{
    process::{Output, Process},
    steer::built,
};

/// How long a worker may take until it listens, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker that listens.
#[derive(Debug)]
pub struct Member {
    /// What it has said of itself.
    pub joined: Joined,
    process: Process,
}

impl Member {
    /// Sends it a signal that doesn't end it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }
}

/// A worker that began to listen.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    /// Its mark.
    pub mark: u32,
    /// Its pid.
    pub pid: u32,
    /// Right before it called listen().
    pub listened: Duration,
}

/// Why a worker left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By SIGTERM: it accepted all that waited, closed its listener, and finished its connections.
    Stopped {
        /// Right before it saw that nothing more waited.
        drained: Duration,
        /// Right after it had closed its listener.
        closed: Duration,
    },
    /// By SIGKILL.
    Killed,
}

/// A worker that has left.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// Its mark.
    pub mark: u32,
    /// Right before it was sent a signal.
    pub signalled: Duration,
    /// Why it left.
    pub how: How,
}

/// A time during which there may have been no listener at all.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// Before the first worker was told to leave.
    pub from: Duration,
    /// After the first new one listened.
    pub to: Duration,
}

/// One change of the crew. All parts of it happen at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// New workers.
    pub join: usize,
    /// Workers that get SIGTERM, the oldest first.
    pub stop: usize,
    /// Workers that get SIGKILL, the oldest of the others first.
    pub kill: usize,
}

/// All workers of a port, present and past.
#[derive(Debug)]
pub struct Crew {
    address: SocketAddr,
    abrupt: bool,
    marks: u32,
    /// Who listens, the oldest first.
    pub members: Vec<Member>,
    /// Who doesn't any more.
    pub left: Vec<Left>,
    /// When nobody may have listened.
    pub outages: Vec<Outage>,
    /// Everyone who ever listened.
    pub joined: Vec<Joined>,
    /// What those who left had accepted.
    pub claims: Claims,
}

impl Crew {
    /// Starts `count` workers and waits until all of them listen.
    ///
    /// # Errors
    /// When one doesn't.
    pub fn start(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        Self::start_with(address, count, false)
    }

    /// The same with workers that, at SIGTERM, close their listeners at once, whatever waits there,
    /// and finish what they have accepted: most servers do.
    ///
    /// # Errors
    /// When one doesn't get there.
    pub fn start_abrupt(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        Self::start_with(address, count, true)
    }

    fn start_with(address: SocketAddr, count: usize, abrupt: bool) -> anyhow::Result<Self> {
        let mut crew = Self {
            address,
            abrupt,
            marks: 0,
            members: Vec::new(),
            left: Vec::new(),
            outages: Vec::new(),
            joined: Vec::new(),
            claims: Claims::default(),
        };
        crew.change(Change {
            join: count,
            ..Change::default()
        })?;
        Ok(crew)
    }

    /// Makes a change and waits until it has happened: who joins listens, who leaves has ended.
    ///
    /// # Errors
    /// When it doesn't happen.
    pub fn change(&mut self, change: Change) -> anyhow::Result<()> {
        let starting = self.spawn(change.join)?;
        let leaving = self.signal(change)?;
        self.admit(starting)?;
        self.reap(leaving)
    }

    /// Has all workers leave at once, half of them by SIGKILL, and as many others come afterwards.
    ///
    /// # Errors
    /// When it doesn't happen.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let count = self.members.len();
        let from = now();
        let leaving = self.signal(Change {
            stop: count - count / 2,
            kill: count / 2,
            join: 0,
        })?;
        self.reap(leaving)?;
        let starting = self.spawn(count)?;
        self.admit(starting)?;
        let listened = self.members.iter().map(|member| member.joined.listened);
        // It is told from before the call; nobody is refused long after it.
        let to = listened.min().unwrap_or_else(now) + Duration::from_millis(5);
        self.outages.push(Outage { from, to });
        Ok(())
    }

    /// Has one member leave, the oldest being 0, and waits until it has ended.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn leave(&mut self, place: usize, signal: Signal) -> anyhow::Result<Left> {
        let member = self.members.remove(place);
        let signalled = now();
        member.process.signal(signal)?;
        self.reap(vec![(member, signalled, signal)])?;
        self.left.last().copied().context("nobody left")
    }

    fn spawn(&mut self, count: usize) -> anyhow::Result<Vec<(u32, Process)>> {
        let mut starting = Vec::new();
        for _ in 0..count {
            self.marks += 1;
            let mut command = Command::new(built("STEER_CHURN_WORKER", "steer-churn-worker")?);
            command
                .args([self.address.to_string(), self.marks.to_string()])
                .args(self.abrupt.then_some("--abrupt"))
                .stdin(Stdio::null());
            starting.push((self.marks, Process::spawn(command, Output::Stdout)?));
        }
        Ok(starting)
    }

    fn admit(&mut self, starting: Vec<(u32, Process)>) -> anyhow::Result<()> {
        for (mark, mut process) in starting {
            let line = process.wait_line("listening", PATIENCE)?;
            let joined = Joined {
                mark,
                pid: process.pid(),
                listened: time(&line, "listening")?,
            };
            self.joined.push(joined);
            self.members.push(Member { joined, process });
        }
        Ok(())
    }

    fn signal(&mut self, change: Change) -> anyhow::Result<Vec<(Member, Duration, Signal)>> {
        let mut leaving = Vec::new();
        let leavers = self.members.drain(..change.stop + change.kill);
        for (index, member) in leavers.enumerate() {
            let signal = if index < change.stop {
                Signal::TERM
            } else {
                Signal::KILL
            };
            let signalled = now();
            member.process.signal(signal)?;
            leaving.push((member, signalled, signal));
        }
        Ok(leaving)
    }

    fn reap(&mut self, leaving: Vec<(Member, Duration, Signal)>) -> anyhow::Result<()> {
        for (mut member, signalled, signal) in leaving {
            let status = member.process.wait(PATIENCE)?;
            let said = member.process.rest();
            self.claims.add(&said, signalled..=now());
            let how = if signal == Signal::KILL {
                How::Killed
            } else {
                ensure!(
                    status.success(),
                    "worker {} ended with {status}",
                    member.joined.mark
                );
                How::Stopped {
                    drained: time(&said, "drained")?,
                    closed: time(&said, "closed")?,
                }
            };
            self.left.push(Left {
                mark: member.joined.mark,
                signalled,
                how,
            });
        }
        Ok(())
    }
}

/// The time that a worker tells as `<what> <nanoseconds>`.
fn time(said: &str, what: &str) -> anyhow::Result<Duration> {
    said.lines()
        .find_map(|line| line.strip_prefix(what)?.trim().parse().ok())
        .map(Duration::from_nanos)
        .with_context(|| format!("a worker didn't say when it was {what}: {said:?}"))
}
