//! Processes that a test starts, none of which outlives it.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use steer_user::sys::orphan::die_with_parent;

use crate::patience::patience;

/// How often something that can't be waited for is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Which output of a process is read; the other one is the test's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Data.
    Stdout,
    /// Messages.
    Stderr,
}

/// A running process, of which every line of one output is kept. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    /// Starts the command, in the namespaces of the calling thread.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(mut command: Command, output: Output) -> anyhow::Result<Self> {
        match output {
            Output::Stdout => command.stdout(Stdio::piped()),
            Output::Stderr => command.stderr(Stdio::piped()),
        };
        die_with_parent(&mut command, Signal::KILL);
        // It would turn one line of an error into fifty.
        command.env_remove("RUST_BACKTRACE");
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start {}", command.get_program().display()))?;
        let (sender, lines) = channel();
        let pipe: Option<Box<dyn Read + Send>> = match output {
            Output::Stdout => child.stdout.take().map(|pipe| Box::new(pipe) as _),
            Output::Stderr => child.stderr.take().map(|pipe| Box::new(pipe) as _),
        };
        if let Some(pipe) = pipe {
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            child,
            lines,
            said: Vec::new(),
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line that starts with `prefix`.
    ///
    /// # Errors
    /// When there is none in time, or the process ends first; the error tells all that it said.
    pub fn wait_line(&mut self, prefix: &str, within: Duration) -> anyhow::Result<String> {
        let within = patience(within);
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.starts_with(prefix) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no line {prefix:?} within {within:?}, only: {:?}",
                        self.said
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended without a line {prefix:?}, only: {:?}", self.said)
                }
            }
        }
    }

    /// All that it said so far.
    pub fn said(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        self.said.join("\n")
    }

    /// All that it said, to the end of the output. Only of use once it has ended.
    pub fn rest(&mut self) -> String {
        self.said.extend(self.lines.iter());
        self.said.join("\n")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // It is reaped by `wait` or `drop` only, so that the pid is still its own or a zombie's.
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal)
            .with_context(|| format!("failed to send {signal:?} to pid {}", self.pid()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let within = patience(within);
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "pid {} still runs after {within:?}, having said: {:?}",
                    self.pid(),
                    self.said()
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends a signal and waits for the end that it causes.
    ///
    /// # Errors
    /// As [`Self::signal`] and [`Self::wait`], which waits ten seconds.
    pub fn end(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(Duration::from_secs(10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail for a process that has ended already, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Looks until `condition` holds; says whether it did within the time, which is longer on a slow
/// machine ([`patience`]).
pub fn eventually(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience(within);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(LOOK);
    }
}
