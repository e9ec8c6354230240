//! Locks on directories of pins: one process at a time.
//!
//! A lock is flock(2)'s, on the directory itself: it dies with its holder, however that ends, and there is no
//! file that could be deleted under it. Whoever removes a locked directory holds its lock; whoever gets
//! a lock looks whether the directory is still the one that the path names.

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

/// How long a lock that is only held for moments is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked for meanwhile.
const PERIOD: Duration = Duration::from_millis(2);

/// Why a lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("lock {}: it is held by {holder}", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// The directory isn't there, or not any more.
    #[error("lock {}: it doesn't exist any more", path.display())]
    Gone {
        /// The directory.
        path: PathBuf,
    },
    /// The directory can't be opened.
    #[error(transparent)]
    Open(TrustError),
    /// The kernel refused.
    #[error("lock {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// A directory that this process has locked until it drops this or ends, however it ends.
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
                // It let go in between.
                Holder::Nobody => {}
                holder @ (Holder::Process(_) | Holder::Unseen) => {
                    let path = path.to_owned();
                    return Err(LockError::Held { path, holder });
                }
            }
        }
    }

    /// Locks a directory that others lock for moments only.
    ///
    /// # Errors
    /// [`LockError::Held`] where its holder doesn't let go within ten seconds.
    pub fn wait(path: &Path) -> Result<Self, LockError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::acquire(path) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => thread::sleep(PERIOD),
                result => return result,
            }
        }
    }

    /// Has the lock go on over an exec, or not any more, and returns the descriptor that holds it. Who runs
    /// then takes it by [`Lock::passed`].
    pub fn pass_on(&self, on: bool) -> io::Result<RawFd> {
        let flags = if on {
            FdFlags::empty()
        } else {
            FdFlags::CLOEXEC
        };
        fcntl_setfd(&self.directory, flags)?;
        Ok(self.directory.as_raw_fd())
    }

    /// The lock of a directory that the program which this process was before the exec has passed on.
    pub fn passed(path: &Path, descriptor: RawFd) -> Option<Self> {
        let passed = fs::metadata(format!("/proc/self/fd/{descriptor}")).ok()?;
        let named = fs::symlink_metadata(path).ok()?;
        if (named.dev(), named.ino()) != (passed.dev(), passed.ino()) {
            return None;
        }
        // SAFETY: it is open, and of a directory that nothing in this process has opened yet: it came
        // over the exec, and nobody else owns it.
        let directory = unsafe { OwnedFd::from_raw_fd(descriptor) };
        fcntl_setfd(&directory, FdFlags::CLOEXEC).ok()?;
        // The lock is the descriptor's, so this holds it already.
        flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
        Self::checked(directory, path).ok()
    }

    /// Whether the directory is still the one that its path names.
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
