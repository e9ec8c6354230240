//! Where steer's pins live.
//!
//! Pins need a bpffs. Most systems mount one at `/sys/fs/bpf`. If none is mounted there, steer
//! mounts one of its own under `/run/steer`, and unmounts it when its last pin is gone. The
//! directory that it was mounted on stays: the same directory may be a mount point in another
//! mount namespace that shares `/run`, and removing the directory would detach what is mounted
//! there.
//!
//! The lock of the root is the host's lock. Whoever has it may make and remove the root itself
//! and what attachments share. The mount lock is on the directory above the root of steer's own
//! bpffs. Whoever mounts or unmounts that bpffs has the mount lock.

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
        "failed to make the directory {} for steer's pins: make it for this user first (docs/operations.md)",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// No bpffs is mounted, and steer can't mount one.
    #[error("failed to mount a bpffs at {}: that needs CAP_SYS_ADMIN; or mount one at /sys/fs/bpf", path.display())]
    Mount {
        /// The mount point that steer tried.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Somebody else can change the root, or a directory on the way to it.
    #[error(transparent)]
    Open(#[from] TrustError),
    /// The root can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The empty root can't be removed.
    #[error("failed to remove the empty directory {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// The directory for steer's pins, if it exists.
pub fn existing_root() -> Result<Option<PathBuf>, BpffsError> {
    PLACES.existing()
}

/// The directory for steer's pins, locked. It is made if it doesn't exist, and only its owner can
/// enter it.
pub fn hold() -> Result<(PathBuf, Lock), BpffsError> {
    PLACES.hold()
}

/// Like [`hold`], but makes no directory.
pub fn hold_existing() -> Result<Option<(PathBuf, Lock)>, BpffsError> {
    PLACES.hold_existing()
}

/// Removes the directory for pins if it is empty. If its bpffs is steer's own, unmounts the bpffs
/// instead. A directory that holds pins is left as it is.
pub fn remove_if_empty(root: &Path, lock: Lock) -> Result<(), BpffsError> {
    PLACES.remove_if_empty(root, lock)
}

/// What a caller wants to do with pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Look at them.
    Read,
    /// Make, change or remove them.
    Write,
}

impl Use {
    /// The capability that allows this to a user who doesn't own the pins.
    fn capability(self) -> Capability {
        match self {
            Self::Read => Capability::DacReadSearch,
            Self::Write => Capability::DacOverride,
        }
    }
}

/// The capability that the caller needs for this use of the pins, besides those that every steer
/// needs. It needs none if the directory of the pins is its own, or if it can make the directory.
pub fn required(purpose: Use) -> Option<Capability> {
    PLACES.required(purpose)
}

/// The capabilities that it takes to look at pinned maps or to change them.
pub fn for_maps(purpose: Use) -> Vec<Capability> {
    let bpf = kernel_version::guards_maps().then_some(Capability::Bpf);
    bpf.into_iter().chain(required(purpose)).collect()
}

/// Whether a bpffs is mounted at `/sys/fs/bpf`.
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

    /// Mounts a bpffs of steer's own, unless another steer has mounted it meanwhile.
    fn mount(&self, path: &Path) -> Result<(), BpffsError> {
        let lock = loop {
            make_directory(path)?;
            // A steer of layout 3 removes the directory with its last lock.
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

    /// Locks the root, or returns none if the root is gone.
    ///
    /// Whoever takes the host's lock of a root that steer mounts holds the mount lock for that
    /// moment. So a steer that holds the mount lock, and has found the root empty under both
    /// locks, can close the root and then unmount it: nobody gets the host's lock in between.
    fn lock(&self, root: &Path) -> Result<Option<Lock>, BpffsError> {
        if root != Path::new(self.own) {
            return lock_root(root);
        }
        let Some(_above) = unless_gone(Lock::wait(self.above()))? else {
            return Ok(None);
        };
        lock_root(root)
    }

    /// The directory of the mount lock, which guards mounting and unmounting in all mount
    /// namespaces that share the directory.
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
                // A directory above `path` can't be entered. So nobody can say whether `path`
                // exists.
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
        // steer's own bpffs goes first: it may hold pins from before the system's was mounted.
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
            // The lock is still held here.
            return remove_directory(root);
        }
        // `lock` says in which order everybody takes these two locks.
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
        // The open lock would keep the bpffs mounted. The root stays empty all the same: nobody
        // gets the host's lock while this steer has the mount lock.
        drop(lock);
        match unmount(root, UnmountFlags::NOFOLLOW) {
            // It stays mounted if somebody has it open, or if an administrator mounted it for
            // this user.
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

/// The host's lock, or none if the root was removed or unmounted meanwhile.
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
    i128::from(found.f_type) == i128::from(libc::BPF_FS_MAGIC)
}

/// Whether the directory belongs to another user.
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

/// Removes `path`. It is no error if `path` doesn't exist, is in use, or is another user's to
/// remove.
fn remove_directory(path: &Path) -> Result<(), BpffsError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
                    // An administrator made it for a steer that doesn't run as root.
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
