//! The `steer` binary, as a user runs it.

use std::{
    env,
    ffi::OsStr,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::process::Signal;

use crate::{
    census::takes_turns,
    isolate::leftovers,
    process::{Output, Process, eventually},
    status::{Attachment, Status},
    texts,
    workers::local,
};

/// How long `steer attach` may take until it steers; reading the kernel's BTF takes an unoptimized
/// build seconds.
const ATTACH: Duration = Duration::from_secs(20);

/// How long any other command may take.
const COMMAND: Duration = Duration::from_secs(20);

/// How long a state may take to show.
const SETTLE: Duration = Duration::from_secs(3);

/// Exit codes of steer.
pub mod code {
    /// What no other code names.
    pub const FAILURE: i32 = 1;
    /// Usage.
    pub const USAGE: i32 = 2;
    /// Missing capabilities.
    pub const NOT_PERMITTED: i32 = 3;
    /// Nothing there.
    pub const NOTHING: i32 = 4;
    /// It can't be steered.
    pub const UNSTEERABLE: i32 = 5;
    /// Somebody else has it.
    pub const HELD: i32 = 6;
    /// The kernel can't do it.
    pub const KERNEL: i32 = 7;
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code, `None` when a signal killed it.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Messages.
    pub stderr: String,
}

/// A binary of the workspace: the one that `variable` names, or the one beside the running program.
///
/// # Errors
/// When there is none.
pub fn built(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    let path = if let Some(path) = env::var_os(variable) {
        PathBuf::from(path)
    } else {
        let running = env::current_exe().context("failed to find the running program")?;
        // target/debug/deps/test-0123, or target/release/program, and name beside either directory's.
        let mut places = running.ancestors().skip(1).take(2);
        let place = places.find(|place| place.join(name).is_file());
        place.map(|place| place.join(name)).unwrap_or_default()
    };
    ensure!(
        path.is_file(),
        "no {name} at {}: run `cargo build` first or set {variable}",
        path.display()
    );
    Ok(path)
}

/// The `steer` binary: `STEER_BIN`, or the one that was built with the tests.
///
/// # Errors
/// When there is none.
pub fn binary() -> anyhow::Result<PathBuf> {
    built("STEER_BIN", "steer")
}

/// Runs `steer` to its end.
///
/// # Errors
/// When it doesn't start or doesn't end.
pub fn steer<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> anyhow::Result<Finished> {
    let mut command = Command::new(binary()?);
    command.args(args);
    run(command)
}

/// The arguments of every command about [`PORT`](crate::PORT) that reads or changes what is pinned.
pub fn about_the_port() -> Vec<Vec<&'static str>> {
    ["attach", "status", "policy rr", "drain --pid 1", "detach"]
        .map(|command| command.split(' ').chain(["--port", "3000"]).collect())
        .to_vec()
}

/// Runs any command to its end.
///
/// # Errors
/// When it doesn't start or doesn't end.
pub fn run(mut command: Command) -> anyhow::Result<Finished> {
    // stdout is read here and stderr by `Process`.
    command.stdin(Stdio::null());
    let (mut reader, writer) = std::io::pipe()?;
    command.stdout(writer);
    let mut process = Process::spawn(command, Output::Stderr)?;
    let stdout = thread::spawn(move || {
        let mut stdout = String::new();
        reader.read_to_string(&mut stdout).map(|_| stdout)
    });
    let status = process.wait(COMMAND)?;
    let stderr = process.rest();
    let stdout = stdout
        .join()
        .map_err(|_panic| anyhow!("the reader of stdout panicked"))??;
    Ok(Finished {
        code: status.code(),
        stdout,
        stderr,
    })
}

/// What `steer status` says of a port.
///
/// # Errors
/// When nothing is attached to the port, or the answer isn't what the contract says.
pub fn status(port: u16) -> anyhow::Result<Attachment> {
    let finished = steer(["status", "--json", "--port", &port.to_string()])?;
    ensure!(
        finished.code == Some(0),
        "steer status failed: {finished:?}"
    );
    let status: Status = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("steer status printed {}", finished.stdout))?;
    status
        .attachments
        .into_iter()
        .find(|attachment| attachment.port == port)
        .with_context(|| format!("nothing of port {port} in {}", finished.stdout))
}

/// What `steer status` says of a port once `condition` holds.
///
/// # Errors
/// When it doesn't hold within three seconds; the error tells what was seen last.
pub fn status_when(
    port: u16,
    condition: impl Fn(&Attachment) -> bool,
) -> anyhow::Result<Attachment> {
    let mut seen = status(port);
    let holds = eventually(SETTLE, || {
        if seen.as_ref().is_ok_and(&condition) {
            return true;
        }
        seen = status(port);
        false
    });
    let seen = seen?;
    ensure!(holds, "not what it should be after {SETTLE:?}: {seen:?}");
    Ok(seen)
}

/// Checks that nothing of steer is left: no file, no attachment, and the kernel's hash decides
/// again over the `workers` workers of the port on 127.0.0.1.
///
/// # Errors
/// When something is left.
pub fn nothing_is_left(port: u16, workers: usize) -> anyhow::Result<()> {
    let files = leftovers()?;
    ensure!(files.is_empty(), "left behind: {files:?}");
    ensure!(!takes_turns(local(port), workers)?, "still steered");
    let status = steer(["status", "--port", &port.to_string()])?;
    ensure!(status.code == Some(code::NOTHING), "{status:?}");
    Ok(())
}

/// A running `steer attach`. Killed when dropped.
#[derive(Debug)]
pub struct Attach(Process);

impl Attach {
    /// Starts it and waits until it steers.
    ///
    /// # Errors
    /// When it ends or takes too long; the error tells what it said.
    pub fn start(port: u16, policy: &str, extra: &[&str]) -> anyhow::Result<Self> {
        Self::start_file(&binary()?, port, policy, extra)
    }

    /// [`Self::start`] with another file than steer's usual one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_file(
        file: &Path,
        port: u16,
        policy: &str,
        extra: &[&str],
    ) -> anyhow::Result<Self> {
        let mut attach = Self::spawn_file(file, port, policy, extra)?;
        attach.wait_line(texts::attach::STEERING)?;
        Ok(attach)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(port: u16, policy: &str, extra: &[&str]) -> anyhow::Result<Self> {
        Self::spawn_file(&binary()?, port, policy, extra)
    }

    fn spawn_file(file: &Path, port: u16, policy: &str, extra: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(file);
        command.args(["attach", "--port", &port.to_string(), "--policy", policy]);
        command.args(extra);
        Self::spawn_command(command)
    }

    /// Starts it in a mount namespace with a bpffs and a /run of its own, as in a container, and waits
    /// until it steers.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_contained(port: u16, policy: &str, extra: &[&str]) -> anyhow::Result<Self> {
        const SCRIPT: &str =
            "mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs run /run && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]);
        command.arg(binary()?);
        command.args(["attach", "--port", &port.to_string(), "--policy", policy]);
        command.args(extra);
        let mut attach = Self::spawn_command(command)?;
        attach.wait_line(texts::attach::STEERING)?;
        Ok(attach)
    }

    /// Starts it by a command of the caller's.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn_command(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Process::spawn(command, Output::Stderr).map(Self)
    }

    /// Waits for the next line on stderr that starts with `prefix`.
    ///
    /// # Errors
    /// When there is none.
    pub fn wait_line(&mut self, prefix: &str) -> anyhow::Result<String> {
        self.0.wait_line(prefix, ATTACH)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// All that it said so far.
    pub fn said(&mut self) -> String {
        self.0.said()
    }

    /// Sends it a signal that doesn't end it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.0.signal(signal)
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Errors
    /// When it doesn't end.
    pub fn end(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        self.0.end(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it doesn't end.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.0.wait(COMMAND)
    }

    /// Has it detach, and checks that it said so with exit code 0.
    ///
    /// # Errors
    /// When it doesn't end, or not well.
    pub fn detach(mut self) -> anyhow::Result<()> {
        let status = self.end(Signal::TERM)?;
        ensure!(
            status.success(),
            "steer attach ended with {status}: {}",
            self.said()
        );
        Ok(())
    }
}
