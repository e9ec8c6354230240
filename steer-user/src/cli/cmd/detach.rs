//! `steer detach`: ends the attachment of a port, so that the kernel's hash chooses again.

use std::{
    io,
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use crate::{
    cli::absent,
    kernel::loading::Kernel,
    output::exit::{Exit, Fail},
    state::{
        bpffs::{self, Use},
        host::{Host, HostLock, follower},
        lock::{Holder, LockError},
    },
    steering::{
        abandoned, older, stale,
        teardown::{end_abandoned, end_older, teardown},
    },
    survey::{groups::FoundGroup, members::Members, port::Port},
    sys::{
        netns, pidfd,
        privilege::{self, Capability},
    },
};

/// How long a running `steer attach` may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `steer detach`.
#[derive(Args, Debug)]
pub struct DetachArgs {
    /// TCP port to give back
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
    if matches!(bpffs::existing_root(), Ok(Some(_))) {
        required.extend(bpffs::required(Use::Write));
    }
    privilege::require(&required)?;
    let port = Port {
        netns_cookie: netns::cookie().context("failed to identify the network namespace")?,
        port: args.port,
    };
    // This process will hold the port's lock. So another `steer detach` may take it for a steer,
    // and send it SIGTERM. If SIGTERM is blocked, the other `steer detach` waits.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("failed to block SIGTERM")?;
    let mut stopped = false;
    let deadline = Instant::now() + PATIENCE;
    let lock = loop {
        stopped |= stop_loader(port)?;
        stopped |= end_older(port)?;
        let Some(held) = HostLock::take_existing()? else {
            return nothing(port, stopped);
        };
        match held.existing_port(port) {
            // Another steer has taken the port meanwhile.
            Err(LockError::Held { .. }) if Instant::now() < deadline => {}
            lock => {
                break lock.with_context(|| {
                    format!(
                        "failed to detach tcp port {}: another steer follows it now",
                        port.port
                    )
                })?;
            }
        }
    };
    let Some(lock) = lock else {
        return nothing(port, stopped);
    };
    let pins = lock.pins().clone();
    if pins.groups(port)?.is_empty() {
        // A steer that was killed before it had steered any group left nothing else.
        lock.give_up()?;
        return nothing(port, true);
    }
    let kernel = Kernel::read()?;
    let host = Host::open(&pins)?;
    let members = Members::load(&kernel, &pins.host(), port.port)?;
    stale::remove(port);
    let tracker = host.id();
    let is_abandoned = |group: &FoundGroup| {
        let left = abandoned::of(group);
        left.is_some_and(|left| !left.is_tracked || left.is_of_tracker(tracker))
    };
    teardown(lock, host, members, is_abandoned)
}

fn nothing(port: Port, was_there: bool) -> anyhow::Result<()> {
    if end_abandoned(port)? || was_there {
        return Ok(());
    }
    Err(absent::not_steered(port))
}

/// Stops the steer that follows a port, of this or of an earlier version. Returns whether there
/// was one.
fn stop_loader(port: Port) -> anyhow::Result<bool> {
    // Who removes what killed steers left of a port holds the port's lock for a moment, and the
    // host's lock meanwhile. So under the host's lock, whoever has the port's lock is the port's
    // steer.
    let Some(held) = HostLock::take_existing()? else {
        return Ok(false);
    };
    let pins = held.pins().clone();
    let follower = || match follower(&pins, port)? {
        Holder::Nobody => older::follower(&pins, port),
        holder @ (Holder::Process(_) | Holder::Unseen) => Ok::<_, LockError>(holder),
    };
    let pid = match follower()? {
        Holder::Nobody => return Ok(false),
        Holder::Process(pid) => pid,
        Holder::Unseen => {
            let what = format!(
                "tcp port {} is followed by a steer in another pid namespace: stop that steer there",
                port.port
            );
            return Err(Fail::new(Exit::Held, what).into());
        }
    };
    let Ok(process) = pidfd::open(pid) else {
        return Ok(true);
    };
    let is_followed = || Ok::<_, LockError>(follower()? == Holder::Process(pid));
    // By now the descriptor is open. If the pid still has the lock, the descriptor is of the
    // process that has it.
    if !is_followed()? {
        return Ok(true);
    }
    pidfd::send_signal(process.as_fd(), libc::SIGTERM).map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            let what = format!(
                "failed to stop steer (pid {pid}), which another user runs: the capability {} is missing; run this command with sudo",
                Capability::Kill
            );
            return Fail::new(Exit::NotPermitted, what).into();
        }
        anyhow::Error::from(error).context(format!("failed to stop steer (pid {pid})"))
    })?;
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while is_followed()? {
        ensure!(
            Instant::now() < deadline,
            "steer (pid {pid}) didn't stop within {PATIENCE:?}; kill it, then run this command again"
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}
