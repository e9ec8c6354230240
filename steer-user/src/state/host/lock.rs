//! The host's lock and the locks of its ports.
//!
//! In which order: a port's, the one for changes of its tables, the host's. Under the host's lock the others
//! are only tried.

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

/// How long the steer that has a port may take to end, or to take it down, when another one comes.
const ENDING: Duration = Duration::from_secs(2);

/// How often that is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// The lock under which whatever attachments share is read and then written: group numbers,
/// registrations, the tracker, the directories of pins. Held for moments, never while a program is
/// loaded, so it is waited for.
#[derive(Debug)]
pub struct HostLock {
    pins: Pins,
    lock: Lock,
}

impl HostLock {
    /// Takes the lock, and makes the directory for pins where there is none.
    pub fn take() -> anyhow::Result<Self> {
        let (root, lock) = bpffs::hold()?;
        let pins = Pins::new(&root);
        Ok(Self { pins, lock })
    }

    /// Takes the lock where there is a directory for pins.
    pub fn take_existing() -> anyhow::Result<Option<Self>> {
        let held = bpffs::hold_existing()?;
        Ok(held.map(|(root, lock)| Self {
            pins: Pins::new(&root),
            lock,
        }))
    }

    /// The pins that it is about.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Locks a port, and makes its directory where there is none.
    ///
    /// # Errors
    /// [`LockError::Held`] where a steer follows the port, or takes it down.
    fn port(&self, port: Port) -> anyhow::Result<PortLock> {
        self.pins.make_attachment(port).with_context(|| {
            format!(
                "failed to make the directory for pins of tcp port {}",
                port.port
            )
        })?;
        Ok(PortLock::new(self, port, Lock::acquire)?)
    }

    /// Locks a port that has a directory.
    pub fn existing_port(&self, port: Port) -> Result<Option<PortLock>, LockError> {
        match PortLock::new(self, port, Lock::acquire) {
            Err(LockError::Gone { .. }) => Ok(None),
            lock => lock.map(Some),
        }
    }

    /// Forgets a port that has no groups: it waited for its first listener, or could not be followed.
    pub fn forget(&self, port: &PortLock) -> anyhow::Result<()> {
        if !port.is_current() || !self.pins.groups(port.port)?.is_empty() {
            return Ok(());
        }
        if fs::exists(self.pins.host().join(LINK))? {
            Host::open(&self.pins)?.unregister(self, port.port)?;
        }
        Ok(self.pins.remove_attachment(port.port)?)
    }

    /// Removes the tracker and the shared maps where no port needs them, and the directory for pins where nothing
    /// is in it any more.
    pub fn remove_if_unused(self) -> anyhow::Result<()> {
        self.remove_unfinished()?;
        if self.pins.attachments()?.is_empty() && self.pins.unfinished_hosts()?.is_empty() {
            let host = self.pins.host();
            // First: without it nobody takes the rest for whole.
            match fs::remove_file(host.join(LINK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            remove_tree(&host).with_context(|| format!("failed to remove {}", host.display()))?;
        }
        self.pins.remove_layout_if_empty()?;
        Ok(bpffs::remove_if_empty(self.pins.root(), self.lock)?)
    }

    /// Removes what steers left that were killed while they made a tracker.
    pub(super) fn remove_unfinished(&self) -> anyhow::Result<()> {
        for dir in self.pins.unfinished_hosts()? {
            // Else it is being made.
            if let Ok(_lock) = Lock::acquire(&dir) {
                remove_tree(&dir)?;
            }
        }
        Ok(())
    }
}

/// The right to follow a port, or to take it down: the lock of the directory of its pins.
///
/// As long as it [is current](Self::is_current), whatever is registered or pinned of the port is its
/// holder's, and nobody else's.
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

    /// Locks a port in order to follow it. One that is locked by another steer is waited for for a moment: that one
    /// may just be ending.
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

    /// The lock of a port that the program before this one has passed on to it.
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

    /// The pins that it is about.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Whether what is pinned of the port is this holder's: somebody may have removed its directory, and another
    /// steer have made one of its own.
    pub fn is_current(&self) -> bool {
        self.lock.is_current()
    }

    /// Has the lock go on over an exec, or not any more: [`Lock::pass_on`].
    pub fn pass_on(&self, on: bool) -> io::Result<RawFd> {
        self.lock.pass_on(on)
    }

    /// Gives up a port that could not be followed: as if it never had been, where no group of it is pinned.
    pub fn give_up(self) -> anyhow::Result<()> {
        let Some(held) = HostLock::take_existing()? else {
            return Ok(());
        };
        held.forget(&self)?;
        drop(self);
        held.remove_if_unused()
    }
}

/// The lock under which the tables of a port are changed, which is held for moments only; none where the port's
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
