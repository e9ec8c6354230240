//! The units of a port, present and past.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{PipeWriter, Write as _},
    ops::RangeInclusive,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    model::{Listener, Rules},
    words::{Kind, LISTENING, Order, SERVING, announcement, numbers},
};
use crate::{
    churn::{claims::Claims, now},
    process::{Output, Process, eventually},
    steer::built,
    workers::local,
};

/// How long a unit may take for what it is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// A unit that runs.
#[derive(Debug)]
pub struct Running {
    process: Process,
    stdin: PipeWriter,
    /// Its processes that serve a listener, or did.
    pids: BTreeSet<u32>,
    /// Those that were killed, and when.
    killed: BTreeMap<u32, RangeInclusive<Duration>>,
}

/// All units of a port.
#[derive(Debug)]
pub struct Crew {
    port: u16,
    marks: u32,
    /// Those that run, in the order of the model.
    pub running: Vec<Running>,
    /// What those that have ended had accepted.
    pub claims: Claims,
    /// Listeners that were closed, or shut down for a while.
    pub closings: usize,
    /// Units that were started.
    pub started: usize,
}

impl Crew {
    /// Nobody yet.
    pub fn new(port: u16) -> Self {
        Self {
            port,
            marks: 0,
            running: Vec::new(),
            claims: Claims::default(),
            closings: 0,
            started: 0,
        }
    }

    /// Starts a unit and waits until it serves; returns its listeners.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn start(&mut self, kind: Kind) -> anyhow::Result<Vec<Listener>> {
        let (reader, stdin) = std::io::pipe()?;
        let mut command = Command::new(built("STEER_STATEFUL_WORKER", "steer-stateful-worker")?);
        command
            .args([kind.name(), &local(self.port).to_string()])
            .arg((self.marks + 1).to_string())
            .stdin(Stdio::from(reader));
        self.marks += kind.listeners() as u32;
        self.started += 1;
        let process = Process::spawn(command, Output::Stdout)?;
        let mut running = Running {
            process,
            stdin,
            pids: BTreeSet::new(),
            killed: BTreeMap::new(),
        };
        running.wait(SERVING, kind.listeners())?;
        let cookies = running.told(LISTENING);
        let pids = running.serving();
        self.running.push(running);
        let listeners = cookies.into_iter().map(|(mark, cookie)| {
            let pid = *pids.get(&mark).context("nobody serves a listener")?;
            Ok(Listener {
                mark,
                cookie,
                pid,
                named: pid,
                known: false,
                rules: Rules::NONE,
                unsure: false,
            })
        });
        listeners.collect()
    }

    /// Has all units end: what their processes had accepted is among the claims from then on, also
    /// of those that were killed long before their unit's end.
    ///
    /// # Errors
    /// When one doesn't end.
    pub fn end_all(&mut self) -> anyhow::Result<()> {
        while !self.running.is_empty() {
            self.end(0, None)?;
        }
        Ok(())
    }

    /// Has a unit end, and waits until all of it has.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn end(&mut self, place: usize, signal: Option<Signal>) -> anyhow::Result<()> {
        let Running {
            mut process,
            stdin,
            pids,
            killed,
        } = self.running.remove(place);
        let from = now();
        drop(stdin);
        if let Some(signal) = signal {
            process.end(signal)?;
        } else {
            let status = process.wait(PATIENCE)?;
            ensure!(status.success(), "a unit ended with {status}");
        }
        // Its processes end with it, a moment later.
        let end = eventually(PATIENCE, || pids.iter().all(|pid| !is_there(*pid)));
        ensure!(end, "of {pids:?} somebody is still there");
        let mut said: BTreeMap<(u32, u32), String> = BTreeMap::new();
        for line in process.rest().lines() {
            if let Some((worker, line)) = announcement(line) {
                let said = said.entry(worker).or_default();
                said.push_str(line);
                said.push('\n');
            }
        }
        for ((pid, _), said) in said {
            let ended = killed.get(&pid).cloned();
            self.claims
                .add(&said, ended.unwrap_or_else(|| from..=now()));
        }
        Ok(())
    }
}

impl Running {
    /// Tells it something, and waits for the lines that say it is done.
    ///
    /// # Errors
    /// When they don't come.
    pub fn tell(&mut self, order: Order, answer: &str, times: usize) -> anyhow::Result<()> {
        writeln!(self.stdin, "{}", order.word())?;
        self.wait(answer, times)
    }

    /// Sends a signal to all its processes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)?;
        for pid in self.pids.iter().filter(|pid| **pid != self.process.pid()) {
            kill(*pid, signal)?;
        }
        Ok(())
    }

    /// How many processes it has, a master included.
    pub fn processes(&self) -> usize {
        self.pids.len() + 1
    }

    /// Kills one of its processes, and waits for its end.
    ///
    /// # Errors
    /// When it doesn't end.
    pub fn kill(&mut self, pid: u32) -> anyhow::Result<()> {
        let from = now();
        kill(pid, Signal::KILL)?;
        ensure!(eventually(PATIENCE, || !is_there(pid)), "{pid} doesn't end");
        self.killed.insert(pid, from..=now());
        Ok(())
    }

    /// The process that serves each listener by now, by mark.
    pub fn serving(&mut self) -> BTreeMap<u32, u32> {
        let serving = self.told(SERVING);
        serving
            .into_iter()
            .map(|(mark, pid)| (mark, pid as u32))
            .collect()
    }

    fn wait(&mut self, answer: &str, times: usize) -> anyhow::Result<()> {
        for _ in 0..times {
            self.process.wait_line(answer, PATIENCE)?;
        }
        self.pids = self
            .pids
            .iter()
            .copied()
            .filter(|pid| is_there(*pid))
            .collect();
        let serving = self.serving();
        self.pids.extend(serving.values());
        Ok(())
    }

    /// The last that it said so of each listener.
    fn told(&mut self, what: &str) -> BTreeMap<u32, u64> {
        let said = self.process.said();
        said.lines()
            .filter_map(|line| numbers(line, what))
            .collect()
    }
}

/// Sends a signal to a process that may have ended.
///
/// # Errors
/// When the kernel refuses.
pub fn kill(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid as i32).context("no pid")?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("failed to send {signal:?} to {pid:?}")),
    }
}

/// Whether there is a process that hasn't ended, a zombie having done so.
pub fn is_there(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}
