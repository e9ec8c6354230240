//! Locks on directories of pins: one process at a time.
//!
//! A lock is flock(2) on the directory itself. So the lock ends with its holder, however the
//! holder ends, and there is no lock file that could be deleted. Whoever removes a locked
//! directory holds its lock. Whoever gets a lock checks whether the path still names the same
//! directory.

mod held;

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, FdFlags, fcntl_setfd},
};

pub use self::held::{Holder, holder_in};
use crate::sys::trusted::{self, TrustError, is_at};

/// How long [`Lock::wait`] waits for a lock that others give back soon.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often [`Lock::wait`] tries meanwhile.
const PERIOD: Duration = Duration::from_millis(2);

/// Why steer can't have a lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("failed to lock {}: {holder} has it locked", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// The directory doesn't exist, or doesn't any more.
    #[error("failed to lock {}: it doesn't exist any more", path.display())]
    Gone {
        /// The directory.
        path: PathBuf,
    },
    /// The directory can't be opened.
    #[error(transparent)]
    Open(TrustError),
    /// The kernel refused.
    #[error("failed to lock {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// A directory that this process has locked until it drops this value or ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    directory: OwnedFd,
    path: PathBuf,
}

impl Lock {
    /// Locks a directory without waiting.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let directory = open(path)?;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self::checked(directory, path),
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(at(path)(error)),
            }
            match held::of(directory.as_fd()).map_err(at(path))? {
                // The holder let go between the two calls.
                Holder::Nobody => {}
                holder @ (Holder::Process(_) | Holder::Unseen) => {
                    let path = path.to_owned();
                    return Err(LockError::Held { path, holder });
                }
            }
        }
    }

    /// Locks a directory. If another process has it locked, waits.
    ///
    /// # Errors
    /// [`LockError::Held`] if the holder doesn't let go within ten seconds.
    pub fn wait(path: &Path) -> Result<Self, LockError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::acquire(path) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => thread::sleep(PERIOD),
                result => return result,
            }
        }
    }

    /// Decides whether the lock goes on over an exec, and returns the descriptor that holds the
    /// lock. The program that is executed takes the lock by [`Lock::passed`].
    pub fn pass_on(&self, on: bool) -> io::Result<RawFd> {
        let flags = if on {
            FdFlags::empty()
        } else {
            FdFlags::CLOEXEC
        };
        fcntl_setfd(&self.directory, flags)?;
        Ok(self.directory.as_raw_fd())
    }

    /// The lock that the former program of this process passed on over the exec. None if the
    /// descriptor isn't of the directory at `path`, or if another process has the lock.
    pub fn passed(path: &Path, descriptor: RawFd) -> Option<Self> {
        let passed = fs::metadata(format!("/proc/self/fd/{descriptor}")).ok()?;
        let named = fs::symlink_metadata(path).ok()?;
        if (named.dev(), named.ino()) != (passed.dev(), passed.ino()) {
            return None;
        }
        // SAFETY: the descriptor is open, and is of a directory that nothing in this process has
        // opened yet. So it came over the exec, and nobody else owns it.
        let directory = unsafe { OwnedFd::from_raw_fd(descriptor) };
        fcntl_setfd(&directory, FdFlags::CLOEXEC).ok()?;
        // The lock belongs to the descriptor, so this process holds it already.
        flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
        Self::checked(directory, path).ok()
    }

    /// Whether the path still names the directory that is locked.
    pub fn is_current(&self) -> bool {
        is_at(&self.directory, &self.path)
    }

    /// The open directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn checked(directory: OwnedFd, path: &Path) -> Result<Self, LockError> {
        let path = path.to_owned();
        let lock = Self { directory, path };
        if lock.is_current() {
            Ok(lock)
        } else {
            let path = lock.path;
            Err(LockError::Gone { path })
        }
    }
}

/// Who holds the lock of a directory.
pub fn holder(path: &Path) -> Result<Holder, LockError> {
    let directory = match open(path) {
        Err(LockError::Gone { .. }) => return Ok(Holder::Nobody),
        directory => directory?,
    };
    held::of(directory.as_fd()).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(Errno) -> LockError {
    let path = path.to_owned();
    |error| LockError::Io {
        path,
        source: error.into(),
    }
}

fn open(path: &Path) -> Result<OwnedFd, LockError> {
    trusted::open(path).map_err(|error| match error {
        TrustError::Missing { path } => LockError::Gone { path },
        error @ (TrustError::Unsafe { .. } | TrustError::Denied { .. } | TrustError::Io { .. }) => {
            LockError::Open(error)
        }
    })
}

#[cfg(test)]
mod tests;
