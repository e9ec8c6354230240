//! The host's lock, and each port's two locks: the port's lock and the lock for changes.
//!
//! A steer that has one of these locks waits only for locks that come after it in this order: the
//! port's lock, the lock for changes, the mount lock (see [`crate::state::bpffs`]), the host's
//! lock. While a steer has the host's lock, it only tries to take the port's lock or the lock for
//! changes.

use std::{
    fs, io,
    os::fd::RawFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{Host, LINK};
use crate::{
    state::{
        bpffs,
        lock::{Holder, Lock, LockError},
        pins::{Pins, remove_tree},
    },
    survey::port::Port,
};

/// How long [`PortLock::follow`] waits for a steer that has the port and ends, or takes the port
/// down.
const ENDING: Duration = Duration::from_secs(2);

/// How often [`PortLock::follow`] tries meanwhile.
const PERIOD: Duration = Duration::from_millis(5);

/// The host's lock. It guards whatever attachments share and change by reading and then writing:
/// group numbers, registrations, the tracker, the directories of pins. It is held for moments, and
/// never while a program is loaded. So whoever wants it waits for it.
#[derive(Debug)]
pub struct HostLock {
    pins: Pins,
    lock: Lock,
}

impl HostLock {
    /// Takes the lock. Makes the directory for pins if there is none.
    pub fn take() -> anyhow::Result<Self> {
        let (root, lock) = bpffs::hold()?;
        let pins = Pins::new(&root);
        Ok(Self { pins, lock })
    }

    /// Takes the lock if there is a directory for pins.
    pub fn take_existing() -> anyhow::Result<Option<Self>> {
        let held = bpffs::hold_existing()?;
        Ok(held.map(|(root, lock)| Self {
            pins: Pins::new(&root),
            lock,
        }))
    }

    /// The pins that the lock guards.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Locks a port. Makes the port's directory if there is none.
    ///
    /// # Errors
    /// [`LockError::Held`] if another steer follows the port, or takes it down.
    fn port(&self, port: Port) -> anyhow::Result<PortLock> {
        self.pins.make_attachment(port).with_context(|| {
            format!(
                "failed to make the directory for pins of tcp port {}",
                port.port
            )
        })?;
        Ok(PortLock::new(self, port, Lock::acquire)?)
    }

    /// Locks a port if it has a directory.
    ///
    /// # Errors
    /// [`LockError::Held`] if another steer follows the port, or takes it down.
    pub fn existing_port(&self, port: Port) -> Result<Option<PortLock>, LockError> {
        match PortLock::new(self, port, Lock::acquire) {
            Err(LockError::Gone { .. }) => Ok(None),
            lock => lock.map(Some),
        }
    }

    /// Forgets a port that has no groups: it waited for its first listener, or couldn't be
    /// followed.
    pub fn forget(&self, port: &PortLock) -> anyhow::Result<()> {
        if !port.is_current() || !self.pins.groups(port.port)?.is_empty() {
            return Ok(());
        }
        if fs::exists(self.pins.host().join(LINK))? {
            Host::open(&self.pins)?.unregister(self, port.port)?;
        }
        Ok(self.pins.remove_attachment(port.port)?)
    }

    /// Removes the tracker and the shared maps if no port needs them, and the directory for pins
    /// if it is empty then.
    pub fn remove_if_unused(self) -> anyhow::Result<()> {
        self.remove_unfinished()?;
        if self.pins.attachments()?.is_empty() && self.pins.unfinished_hosts()?.is_empty() {
            let host = self.pins.host();
            // The link goes first. Nobody takes a directory without this link for a whole
            // tracker.
            match fs::remove_file(host.join(LINK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            remove_tree(&host).with_context(|| format!("failed to remove {}", host.display()))?;
        }
        self.pins.remove_layout_if_empty()?;
        Ok(bpffs::remove_if_empty(self.pins.root(), self.lock)?)
    }

    /// Removes the half-made trackers of steers that were killed.
    pub(super) fn remove_unfinished(&self) -> anyhow::Result<()> {
        for dir in self.pins.unfinished_hosts()? {
            // If the directory is locked, a steer is making a tracker in it.
            if let Ok(_lock) = Lock::acquire(&dir) {
                remove_tree(&dir)?;
            }
        }
        Ok(())
    }
}

/// The port's lock: the right to follow the port, or to take it down. It is on the directory of
/// the port's pins.
///
/// As long as the lock [is current](Self::is_current), all that is registered or pinned of the
/// port is its holder's, and nobody else's.
#[derive(Debug)]
pub struct PortLock {
    port: Port,
    pins: Pins,
    lock: Lock,
}

impl PortLock {
    fn new<E>(
        host: &HostLock,
        port: Port,
        lock: impl FnOnce(&Path) -> Result<Lock, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            port,
            lock: lock(&host.pins.attachment(port))?,
            pins: host.pins.clone(),
        })
    }

    /// Locks a port in order to follow it. If another steer has the port, that steer may just be
    /// ending: this waits for up to two seconds.
    pub fn follow(port: Port) -> anyhow::Result<Self> {
        let deadline = Instant::now() + ENDING;
        loop {
            let held = HostLock::take()?;
            match held.port(port) {
                Err(error) if is_held(&error) && Instant::now() < deadline => {
                    drop(held);
                    thread::sleep(PERIOD);
                }
                lock => return lock,
            }
        }
    }

    /// The lock of a port that the former program of this process passed on over the exec.
    pub fn passed(port: Port, descriptor: RawFd) -> anyhow::Result<Option<Self>> {
        let Some(held) = HostLock::take_existing()? else {
            return Ok(None);
        };
        let take = |path: &Path| Lock::passed(path, descriptor).ok_or(());
        Ok(Self::new(&held, port, take).ok())
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The pins that the lock guards.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Whether what is pinned of the port is this holder's. It isn't if somebody removed the
    /// port's directory. Another steer may have made a new one since.
    pub fn is_current(&self) -> bool {
        self.lock.is_current()
    }

    /// Decides whether the lock goes on over an exec: [`Lock::pass_on`].
    pub fn pass_on(&self, on: bool) -> io::Result<RawFd> {
        self.lock.pass_on(on)
    }

    /// Gives up a port that couldn't be followed. If no group of the port is pinned, nothing of
    /// the port is left.
    pub fn give_up(self) -> anyhow::Result<()> {
        let Some(held) = HostLock::take_existing()? else {
            return Ok(());
        };
        held.forget(&self)?;
        drop(self);
        held.remove_if_unused()
    }
}

/// Takes the lock for changes, which whoever changes the tables of a port has. A command has it
/// for moments. A loader also has it while it loads the programs of groups, and a detach until the
/// programs are detached. This waits for the lock, ten seconds at most. None if the port's
/// directory is gone.
pub fn edit_lock(pins: &Pins, port: Port) -> Result<Option<Lock>, LockError> {
    match Lock::wait(&pins.edit(port)) {
        Err(LockError::Gone { .. }) => Ok(None),
        lock => lock.map(Some),
    }
}

/// Who follows a port.
pub fn follower(pins: &Pins, port: Port) -> Result<Holder, LockError> {
    crate::state::lock::holder(&pins.attachment(port))
}

fn is_held(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LockError::Held { .. }))
}
