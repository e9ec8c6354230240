//! Where steer's pins live.
//!
//! Pins need a bpffs. Most systems mount one at `/sys/fs/bpf`; where none is, steer mounts one of
//! its own under `/run/steer` and unmounts it when its last pin is gone. The directory that it is mounted on
//! stays: it may be a mount point in other mount namespaces that share `/run`, and to remove it would
//! detach what is mounted there.
//!
//! The lock of the root is the host's lock: whoever has it may make and remove what attachments share, and the root
//! itself.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, StatFs, accessat, fstatfs, statfs},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::geteuid,
};

use crate::{
    kernel::kernel_version,
    state::lock::{Lock, LockError},
    sys::{
        privilege::Capability,
        trusted::{self, TrustError},
    },
};

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What a kernel built with `CONFIG_BPF_PRELOAD` puts into each new bpffs by itself.
const PRELOADED: [&[u8]; 2] = [b"maps.debug", b"progs.debug"];

const PLACES: Places<'static> = Places {
    own: "/run/steer/bpf",
    system: "/sys/fs/bpf",
};

/// Why there is no place for pins.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// A directory can't be made.
    #[error(
        "make the directory {} for pins: have it made for this user (docs/operations.md)",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// No bpffs is mounted, and steer's own can't be.
    #[error("mount a bpffs at {}: it needs CAP_SYS_ADMIN, unless one is mounted at /sys/fs/bpf", path.display())]
    Mount {
        /// Where it was to be.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The root, or what it is in, isn't steer's alone.
    #[error(transparent)]
    Open(#[from] TrustError),
    /// The root can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The empty root can't be removed.
    #[error("remove the empty directory {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// The directory for steer's pins, if there is one.
pub fn existing_root() -> Result<Option<PathBuf>, BpffsError> {
    PLACES.existing()
}

/// The directory for steer's pins, locked; made if it isn't there, readable by its owner only.
pub fn hold() -> Result<(PathBuf, Lock), BpffsError> {
    PLACES.hold()
}

/// [`hold`] without making one.
pub fn hold_existing() -> Result<Option<(PathBuf, Lock)>, BpffsError> {
    PLACES.hold_existing()
}

/// Removes the directory for pins if it is empty, and unmounts the bpffs where that is steer's own. A
/// directory that holds pins is left as it is.
pub fn remove_if_empty(root: &Path, lock: Lock) -> Result<(), BpffsError> {
    PLACES.remove_if_empty(root, lock)
}

/// What is to be done with pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// They are looked at.
    Read,
    /// They are made, changed or removed.
    Write,
}

impl Use {
    /// What grants it to a user who doesn't own the pins.
    fn capability(self) -> Capability {
        match self {
            Self::Read => Capability::DacReadSearch,
            Self::Write => Capability::DacOverride,
        }
    }
}

/// What the caller must be allowed to, besides what any steer must, to do that with the pins: nothing where
/// their directory is its own, or can be made.
pub fn required(purpose: Use) -> Option<Capability> {
    PLACES.required(purpose)
}

/// What it takes to look at pinned maps, or to change them.
pub fn for_maps(purpose: Use) -> Vec<Capability> {
    let bpf = kernel_version::guards_maps().then_some(Capability::Bpf);
    bpf.into_iter().chain(required(purpose)).collect()
}

/// Whether the system has a bpffs in its usual place.
pub fn is_system_mounted() -> bool {
    is_bpffs(Path::new(PLACES.system))
}

struct Places<'a> {
    own: &'a str,
    system: &'a str,
}

impl Places<'_> {
    fn hold(&self) -> Result<(PathBuf, Lock), BpffsError> {
        loop {
            let root = self.root()?;
            if let Some(lock) = self.lock(&root)? {
                return Ok((root, lock));
            }
        }
    }

    fn hold_existing(&self) -> Result<Option<(PathBuf, Lock)>, BpffsError> {
        while let Some(root) = self.existing()? {
            if let Some(lock) = self.lock(&root)? {
                return Ok(Some((root, lock)));
            }
        }
        Ok(None)
    }

    fn root(&self) -> Result<PathBuf, BpffsError> {
        if let Some(root) = self.existing()? {
            return Ok(root);
        }
        if is_bpffs(Path::new(self.system)) {
            let path = self.in_system();
            make_directory(&path)?;
            return Ok(path);
        }
        let path = PathBuf::from(self.own);
        self.mount(&path)?;
        Ok(path)
    }

    /// Mounts a bpffs of steer's own, unless that was just done.
    fn mount(&self, path: &Path) -> Result<(), BpffsError> {
        let lock = loop {
            make_directory(path)?;
            // A steer of layout 3 removes it with its last lock.
            if let Some(lock) = unless_gone(Lock::wait(self.above()))? {
                break lock;
            }
        };
        if !is_bpffs(path) {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("bpf", path, "bpf", flags, c"mode=0700").map_err(|error| BpffsError::Mount {
                path: path.to_owned(),
                source: error.into(),
            })?;
        }
        drop(lock);
        Ok(())
    }

    /// Locks the root; none where it is gone.
    ///
    /// The lock of a root that steer mounts is asked for under the lock above it. So whoever
    /// unmounts it has both once it is known to be empty, and needs not keep it open.
    fn lock(&self, root: &Path) -> Result<Option<Lock>, BpffsError> {
        if root != Path::new(self.own) {
            return lock_root(root);
        }
        let Some(_above) = unless_gone(Lock::wait(self.above()))? else {
            return Ok(None);
        };
        lock_root(root)
    }

    /// Where mounting and unmounting is locked: over all mount namespaces that share it.
    fn above(&self) -> &Path {
        let own = Path::new(self.own);
        own.parent().unwrap_or(own)
    }

    fn required(&self, purpose: Use) -> Option<Capability> {
        let own = PathBuf::from(self.own);
        for path in [own, self.in_system()] {
            match statfs(&path) {
                Ok(found) if is_magic(&found) => {
                    return foreign(&path).then(|| purpose.capability());
                }
                // Something above it can't be entered, so it can't be told whether it is there.
                Err(Errno::ACCESS) => return Some(Capability::DacReadSearch),
                _ => {}
            }
        }
        let system = Path::new(self.system);
        let makes = purpose == Use::Write && is_bpffs(system);
        let denied = || {
            accessat(
                CWD,
                system,
                Access::WRITE_OK | Access::EXEC_OK,
                AtFlags::EACCESS,
            )
            .is_err()
        };
        (makes && denied()).then_some(Capability::DacOverride)
    }

    fn existing(&self) -> Result<Option<PathBuf>, BpffsError> {
        // steer's own goes first: it may hold pins from before somebody mounted the system's.
        for path in [PathBuf::from(self.own), self.in_system()] {
            match trusted::open(&path) {
                Ok(directory) if is_in_bpffs(&directory) => return Ok(Some(path)),
                Ok(_) | Err(TrustError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn remove_if_empty(&self, root: &Path, lock: Lock) -> Result<(), BpffsError> {
        if root != Path::new(self.own) {
            // Before the lock is given back.
            return remove_directory(root);
        }
        // In the order in which everybody takes them: see `lock`.
        drop(lock);
        let Some(_above) = unless_gone(Lock::wait(self.above()))? else {
            return Ok(());
        };
        let Some(lock) = lock_root(root)? else {
            return Ok(());
        };
        if !is_empty(root) {
            return Ok(());
        }
        // What is open in it would keep it mounted. It stays empty, as nobody gets this lock any more.
        drop(lock);
        match unmount(root, UnmountFlags::NOFOLLOW) {
            // Somebody is looking into it, or it was mounted for this user: it stays.
            Ok(()) | Err(Errno::BUSY | Errno::PERM) => Ok(()),
            Err(error) => Err(BpffsError::Remove {
                path: root.to_owned(),
                source: error.into(),
            }),
        }
    }

    fn in_system(&self) -> PathBuf {
        Path::new(self.system).join("steer")
    }
}

/// The lock of a root; none where it was removed, or unmounted, in the meantime.
fn lock_root(root: &Path) -> Result<Option<Lock>, BpffsError> {
    let lock = unless_gone(Lock::wait(root))?;
    Ok(lock.filter(|lock| is_in_bpffs(lock.directory())))
}

fn unless_gone(lock: Result<Lock, LockError>) -> Result<Option<Lock>, LockError> {
    match lock {
        Err(LockError::Gone { .. }) => Ok(None),
        lock => lock.map(Some),
    }
}

fn is_in_bpffs(directory: impl AsFd) -> bool {
    fstatfs(directory).is_ok_and(|found| is_magic(&found))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| is_magic(&found))
}

fn is_magic(found: &StatFs) -> bool {
    found.f_type as u64 == BPF_FS_MAGIC
}

/// Whether the directory is another user's.
fn foreign(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.uid() != geteuid().as_raw())
}

/// Whether nothing is pinned in the bpffs at `path`.
fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| {
        entries
            .all(|entry| entry.is_ok_and(|entry| PRELOADED.contains(&entry.file_name().as_bytes())))
    })
}

fn make_directory(path: &Path) -> Result<(), BpffsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| BpffsError::Directory {
            path: path.to_owned(),
            source,
        })
}

/// Removes `path` unless it is in use, not there, or another's to remove.
fn remove_directory(path: &Path) -> Result<(), BpffsError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
                    // Made by an administrator for a steer that isn't root's.
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(BpffsError::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests;
