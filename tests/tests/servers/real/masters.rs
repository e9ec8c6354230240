//! Servers of one master, or of several with one worker each.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    process::{Output, Process, eventually},
    servers::file,
};

use super::{Server, WORKERS, all_listen, argument, here};

/// How long a replacement may take on a machine that is busy with anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How soon a master is told once more that has not begun: it may have been starting itself.
const AGAIN: Duration = Duration::from_secs(4);

/// Masters and how their workers are replaced: by a signal to one of them, or of themselves.
pub(super) struct Masters {
    processes: Vec<Process>,
    signal: Option<Signal>,
    /// Whose workers are replaced.
    turn: usize,
    /// Who was there when that began.
    before: Vec<Vec<u32>>,
}

impl Masters {
    /// One master of all.
    pub(super) fn one(command: Command, signal: Signal) -> anyhow::Result<Self> {
        Self::start(vec![command], Some(signal))
    }

    /// A master for each worker, whose number is in the environment.
    pub(super) fn several(
        mut one: impl FnMut() -> Command,
        signal: Option<Signal>,
    ) -> anyhow::Result<Self> {
        let commands = (0..WORKERS).map(|index| {
            let mut command = one();
            command.env("INDEX", index.to_string());
            command
        });
        Self::start(commands.collect(), signal)
    }

    pub(super) fn nginx(program: &Path) -> anyhow::Result<Self> {
        // `/run` is the test's own.
        let prefix = Path::new("/run/nginx");
        fs::create_dir(prefix)?;
        let config = fs::read_to_string(file("nginx.conf"))?;
        let config = config
            .replace("listen LISTEN", "listen 127.0.0.1:3000 reuseport")
            .replace("worker_processes 3", &format!("worker_processes {WORKERS}"));
        fs::write(prefix.join("nginx.conf"), config)?;
        let mut command = Command::new(program);
        command.args(["-p", argument(prefix)?, "-c", "nginx.conf", "-e", "stderr"]);
        Self::one(command, Signal::HUP)
    }

    fn start(commands: Vec<Command>, signal: Option<Signal>) -> anyhow::Result<Self> {
        let mut masters = Vec::new();
        for mut command in commands {
            command
                .current_dir(here())
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .stdin(Stdio::null());
            masters.push(Process::spawn(command, Output::Stderr)?);
        }
        wait_for("listeners", all_listen)?;
        Ok(Self {
            processes: masters,
            signal,
            turn: 0,
            before: Vec::new(),
        })
    }

    fn workers(&self) -> Vec<Vec<u32>> {
        let masters = self.processes.iter();
        masters.map(|master| children(master.pid())).collect()
    }
}

impl Server for Masters {
    fn begin(&mut self, number: usize) -> anyhow::Result<()> {
        self.turn = number % self.processes.len();
        self.before = self.workers();
        match self.signal {
            Some(signal) => self.processes[self.turn].signal(signal),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let mut told = Instant::now();
        let mut now = Vec::new();
        let is_done = || {
            now = self.workers();
            let is_replaced = |place: usize| {
                now[place]
                    .iter()
                    .all(|pid| !self.before[place].contains(pid))
            };
            if let Some(signal) = self.signal
                && told.elapsed() > AGAIN
                && now[self.turn] == self.before[self.turn]
            {
                told = Instant::now();
                drop(self.processes[self.turn].signal(signal));
            }
            let mut all = 0..self.processes.len();
            let lengths =
                |workers: &[Vec<u32>]| -> Vec<usize> { workers.iter().map(Vec::len).collect() };
            lengths(&now) == lengths(&self.before)
                && all_listen()
                && match self.signal {
                    Some(_) => is_replaced(self.turn),
                    None => all.any(is_replaced),
                }
        };
        wait_for("workers in the place of those before", is_done)
            .with_context(|| format!("before {:?}, now {now:?}", self.before))
    }
}

/// Waits for a state.
pub(super) fn wait_for(what: &str, holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    ensure!(
        eventually(PATIENCE, holds),
        "not {WORKERS} {what} after {PATIENCE:?}"
    );
    Ok(())
}

/// The processes that a process has started, and that it hasn't reaped.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
