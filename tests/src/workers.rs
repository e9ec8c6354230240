//! Test workers: single-threaded HTTP servers of which each is a process of its own.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::ensure;
use rustix::process::Signal;

use crate::{
    PORT,
    process::{Output, Process},
    status::Attachment,
    steer::built,
};

/// How long a worker may take until it listens.
const READY: Duration = Duration::from_secs(10);

/// A running worker. Killed when dropped.
#[derive(Debug)]
pub struct Worker(Process);

impl Worker {
    /// Starts a worker on an address with more of the test worker's options, and waits until it
    /// accepts connections.
    ///
    /// # Errors
    /// When it doesn't get there; it says why on the test's own stderr.
    pub fn start(address: &str, extra: &[&str]) -> anyhow::Result<Self> {
        let mut args = vec!["--bind", address];
        args.extend(extra);
        Self::start_with(&args)
    }

    /// Starts a worker with any of the test worker's options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(args: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(args, Stdio::null())
    }

    /// Starts a worker that polls a listener which it is given.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(listener: &TcpListener) -> anyhow::Result<Self> {
        let listener = OwnedFd::from(listener.try_clone()?);
        Self::spawn(&["--inherited"], Stdio::from(listener))
    }

    fn spawn(args: &[&str], stdin: Stdio) -> anyhow::Result<Self> {
        let mut command = Command::new(built("STEER_TEST_WORKER", "steer-test-worker")?);
        command.args(args).stdin(stdin);
        let mut process = Process::spawn(command, Output::Stdout)?;
        process.wait_line("listening", READY)?;
        Ok(Self(process))
    }

    /// Its pid, which is also what it answers.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Has it stop listening and finish what it has accepted.
    ///
    /// # Errors
    /// When it doesn't end, or not well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let status = self.0.end(Signal::TERM)?;
        ensure!(status.success(), "pid {} ended with {status}", self.pid());
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it doesn't end.
    pub fn kill(mut self) -> anyhow::Result<ExitStatus> {
        self.0.end(Signal::KILL)
    }
}

/// Several workers on one address.
///
/// # Errors
/// As [`Worker::start`].
pub fn start(count: usize, address: &str) -> anyhow::Result<Vec<Worker>> {
    (0..count).map(|_| Worker::start(address, &[])).collect()
}

/// The pids of workers.
pub fn pids(workers: &[Worker]) -> Vec<u32> {
    workers.iter().map(Worker::pid).collect()
}

/// 127.0.0.1 with a port.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// ::1 with a port.
pub fn local6(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, port))
}

/// As many workers on each of 127.0.0.1 and ::1, which are two groups of [`PORT`].
///
/// # Errors
/// As [`Worker::start`].
pub fn start_both(count: usize) -> anyhow::Result<Vec<Worker>> {
    let mut workers = start(count, &local(PORT).to_string())?;
    workers.extend(start(count, &local6(PORT).to_string())?);
    Ok(workers)
}

/// Checks that these are the live workers of the status.
///
/// # Errors
/// When they aren't.
pub fn are_live(workers: &[Worker], seen: &Attachment) -> anyhow::Result<()> {
    let mut live: Vec<_> = seen.live().map(|worker| worker.pid).collect();
    let mut wanted = pids(workers);
    live.sort_unstable();
    wanted.sort_unstable();
    ensure!(live == wanted, "not {wanted:?}: {seen:?}");
    Ok(())
}
