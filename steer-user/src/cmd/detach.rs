//! `steer detach`: the kernel's hash again, from outside.

use std::{
    io,
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    abandoned, absent,
    bpffs::{self, Use},
    exit::{Exit, Fail},
    host::{self, Host},
    loading::Kernel,
    lock::{self, Lock, LockError},
    members::Members,
    netns, pidfd,
    pins::{Pins, Port},
    privilege::{self, Capability},
    stale,
    survey::FoundGroup,
    teardown::{end_abandoned, teardown},
};

/// How long a running `steer attach` may take to detach.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `steer detach`.
#[derive(Args, Debug)]
pub struct DetachArgs {
    /// TCP port that shall not be steered any more
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Ends the attachment of a port, whether a `steer attach` runs for it or not.
pub fn run(args: &DetachArgs) -> anyhow::Result<()> {
    let mut required = vec![
        Capability::Bpf,
        Capability::Perfmon,
        Capability::SysPtrace,
        Capability::DacReadSearch,
    ];
    if bpffs::existing_root().is_some() {
        required.extend(bpffs::required(Use::Write));
    }
    privilege::require(&required)?;
    let port = Port {
        netns_cookie: netns::cookie().context("failed to identify the network namespace")?,
        port: args.port,
    };
    let stopped = stop_loader(port)?;
    let Some(root) = bpffs::existing_root() else {
        return nothing(port, stopped);
    };
    let pins = Pins::new(&root);
    let lock = Lock::acquire(&port.lock_name()).context("failed to take the port's lock")?;
    if !pins.attachments()?.contains(&port) {
        // A steer that was killed before it had steered any group left no more than that.
        let waited = host::forget_unless_pinned(&pins, port)?;
        host::remove_if_unused(&pins)?;
        bpffs::remove_root_if_empty()?;
        lock.release()?;
        return nothing(port, stopped || waited);
    }
    let kernel = Kernel::read()?;
    let host = Host::open(&pins)?;
    let mut members = Members::load(&kernel, &pins.host(), port.port)?;
    stale::remove(&pins, port);
    let tracker = host.id();
    let is_abandoned = |group: &FoundGroup| {
        let left = abandoned::of(group);
        left.is_some_and(|left| !left.is_tracked || left.is_of_tracker(tracker))
    };
    teardown(&pins, port, host, &mut members, is_abandoned)?;
    drop(members);
    bpffs::remove_root_if_empty()?;
    Ok(lock.release()?)
}

fn nothing(port: Port, stopped: bool) -> anyhow::Result<()> {
    if end_abandoned(port)? || stopped {
        return Ok(());
    }
    Err(absent::not_steered(port))
}

/// Stops a running `steer attach`. True where there was one.
fn stop_loader(port: Port) -> anyhow::Result<bool> {
    let name = port.lock_name();
    let Some(pid) = lock::holder(&name) else {
        return Ok(false);
    };
    let Ok(process) = pidfd::open(pid) else {
        return Ok(true);
    };
    // Only now is it certain that the pid is the holder's and will stay so.
    if lock::holder(&name) != Some(pid) {
        return Ok(true);
    }
    if !lock::is_open_in(&name, pid) {
        let what = format!(
            "tcp port {} is followed by a steer of another pid namespace: stop that one",
            port.port
        );
        return Err(Fail::new(Exit::Held, what).into());
    }
    pidfd::send_signal(process.as_fd(), libc::SIGTERM).map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            let what = format!(
                "failed to stop steer (pid {pid}), which is another user's: {} is missing",
                Capability::Kill
            );
            return Fail::new(Exit::NotPermitted, what).into();
        }
        anyhow::Error::from(error).context(format!("failed to stop steer (pid {pid})"))
    })?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Lock::acquire(&name) {
            Ok(lock) => {
                lock.release()?;
                return Ok(true);
            }
            Err(LockError::Held { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("steer (pid {pid}) doesn't stop"));
            }
        }
    }
}
