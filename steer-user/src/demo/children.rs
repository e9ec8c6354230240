//! The processes that the demo starts. None of them outlives the demo.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::DemoError;
use crate::sys::orphan::die_with_parent;

/// How long a child may take to say that it is ready. An unoptimized build takes seconds to read
/// the kernel's BTF.
const READY: Duration = Duration::from_secs(60);

/// How long a child may take to end by itself.
const LEAVE: Duration = Duration::from_secs(3);

/// What a worker prints when it accepts connections.
pub(super) const WORKER_READY: &str = "listening";

/// What `steer attach` prints when it steers a group.
const ATTACH_READY: &str = "steering ";

/// The beginning of the last words of `steer attach`. The demo's own last words begin with it,
/// too.
const PREFIX: &str = "steer: ";

/// All children of the demo.
#[derive(Default)]
pub(super) struct Children {
    workers: Vec<Child>,
    attach: Option<Child>,
}

impl Children {
    /// Starts a worker on the port and waits until it accepts connections.
    pub(super) async fn start_worker(
        &mut self,
        steer: &Path,
        address: SocketAddr,
    ) -> Result<(), DemoError> {
        let mut command = Command::new(steer);
        command.args(["demo-worker", "--port", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut worker = spawn(command, Signal::KILL).map_err(DemoError::StartWorker)?;
        let output = worker.stdout.take();
        self.workers.push(worker);
        let output = output.ok_or(DemoError::WorkerEnded)?;
        match told(output, WORKER_READY).await {
            Ok(Told::Ready(_)) => Ok(()),
            Ok(Told::Ended(_)) => Err(DemoError::WorkerEnded),
            Err(error) => Err(DemoError::StartWorker(error)),
        }
    }

    /// Starts `steer attach` and waits until it steers.
    pub(super) async fn attach(
        &mut self,
        steer: &Path,
        port: u16,
        policy: &str,
    ) -> Result<(), DemoError> {
        let mut command = Command::new(steer);
        command.args(["attach", "--port", &port.to_string(), "--policy", policy]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        // With SIGTERM, steer undoes what it did, even if the demo is killed.
        let mut attach = spawn(command, Signal::TERM).map_err(DemoError::StartAttach)?;
        let output = attach.stderr.take();
        let attach = self.attach.insert(attach);
        let output = output.ok_or(DemoError::Attach {
            code: None,
            said: String::new(),
        })?;
        match told(output, ATTACH_READY).await {
            Ok(Told::Ready(mut rest)) => {
                // The rest is read, so that whatever else steer says never finds the pipe closed
                // or full.
                tokio::spawn(async move {
                    drop(tokio::io::copy_buf(&mut rest, &mut tokio::io::sink()).await);
                });
                Ok(())
            }
            Ok(Told::Ended(said)) => {
                let status = attach.wait().await.map_err(DemoError::StartAttach)?;
                self.attach = None;
                Err(DemoError::Attach {
                    code: status.code(),
                    said: said.trim_end().trim_start_matches(PREFIX).to_owned(),
                })
            }
            Err(error) => Err(DemoError::StartAttach(error)),
        }
    }

    /// Makes `steer attach` detach, and waits until it has ended.
    pub(super) async fn detach(&mut self) -> Result<(), DemoError> {
        let Some(mut attach) = self.attach.take() else {
            return Ok(());
        };
        let status = leave(&mut attach).await.map_err(DemoError::Detach)?;
        if status.success() {
            Ok(())
        } else {
            Err(DemoError::DetachStatus(status))
        }
    }

    /// Ends and reaps everything that still runs.
    pub(super) async fn stop(&mut self) -> Result<(), DemoError> {
        let detached = self.detach().await;
        for worker in &mut self.workers {
            worker.kill().await.map_err(DemoError::StopWorker)?;
        }
        self.workers.clear();
        detached
    }
}

/// Starts a child. It gets `signal` if the demo dies without having ended it.
fn spawn(mut command: Command, signal: Signal) -> io::Result<Child> {
    die_with_parent(command.as_std_mut(), signal);
    command.kill_on_drop(true).spawn()
}

/// Asks a child to end, kills it if it doesn't, and reaps it.
async fn leave(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
        // The child isn't reaped yet, so its pid is still its own.
        kill_process(pid, Signal::TERM)?;
    }
    if let Ok(status) = timeout(LEAVE, child.wait()).await {
        return status;
    }
    child.kill().await?;
    child.wait().await
}

/// What a child has said.
enum Told<R> {
    /// It said the line that was waited for. What follows the line can be read here.
    Ready(BufReader<R>),
    /// It ended without that line. This is all that it said.
    Ended(String),
}

/// Waits for a line that begins with `prefix`.
async fn told<R: AsyncRead + Unpin>(output: R, prefix: &str) -> io::Result<Told<R>> {
    let mut output = BufReader::new(output);
    let mut said = Vec::new();
    loop {
        let start = said.len();
        let line = output.read_until(b'\n', &mut said);
        let length = timeout(READY, line).await.map_err(io::Error::from)??;
        if length == 0 {
            return Ok(Told::Ended(String::from_utf8_lossy(&said).into_owned()));
        }
        if said[start..].starts_with(prefix.as_bytes()) {
            return Ok(Told::Ready(output));
        }
    }
}
