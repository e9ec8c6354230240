//! The workers of a run, and steer in front of them.

use std::{env, net::SocketAddr, process::Command, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use steer_tests::{
    PORT,
    process::{Output, Process},
    steer::{Attach, status},
    workers::local,
};

/// How long a worker may take until it listens.
const READY: Duration = Duration::from_secs(10);

/// Workers of one port, killed when dropped.
#[derive(Debug)]
pub(crate) struct Group {
    _workers: Vec<Process>,
    attach: Option<Attach>,
}

/// What steer says it did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Steered {
    /// Connections for which it chose the worker.
    selected: u64,
    /// Connections that it left to the kernel's hash.
    hashed: u64,
}

impl Group {
    /// Starts the workers, each a process, and has steer choose among them where a policy is given.
    pub(crate) fn start(workers: usize, policy: Option<&str>) -> anyhow::Result<Self> {
        let program = env::current_exe().context("failed to find this program")?;
        let workers = (0..workers)
            .map(|_| {
                let mut command = Command::new(&program);
                command.args(["worker", &local(PORT).to_string()]);
                let mut worker = Process::spawn(command, Output::Stdout)?;
                worker.wait_line("listening", READY)?;
                Ok(worker)
            })
            .collect::<anyhow::Result<_>>()?;
        let attach = policy
            .map(|policy| Attach::start(PORT, policy, &[]))
            .transpose()?;
        Ok(Self {
            _workers: workers,
            attach,
        })
    }

    /// Where the workers listen.
    #[expect(clippy::unused_self, reason = "there is no address without a group")]
    pub(crate) fn address(&self) -> SocketAddr {
        local(PORT)
    }

    /// Stops everything; returns what steer did where it was there.
    pub(crate) fn stop(self) -> anyhow::Result<Option<Steered>> {
        let Some(attach) = self.attach else {
            return Ok(None);
        };
        let groups = status(PORT)?.groups;
        attach.detach()?;
        Ok(Some(Steered {
            selected: groups.iter().map(|group| group.selected).sum(),
            hashed: groups.iter().map(|group| group.hashed).sum(),
        }))
    }
}
