//! Where steer's pins live.
//!
//! Pins need a bpffs. Most systems mount one at `/sys/fs/bpf`; where none is, steer mounts one of
//! its own under `/run/steer` and removes it when its last pin is gone.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, StatFs, accessat, statfs},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::geteuid,
};

use crate::privilege::Capability;

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

/// The directory for steer's pins, made if it isn't there, readable by its owner only.
///
/// Hold the attachment's lock from here until the first pin is made: an empty root is what
/// [`remove_root_if_empty`] removes.
pub fn root() -> Result<PathBuf, BpffsError> {
    PLACES.root()
}

/// The directory for steer's pins, if there is one.
pub fn existing_root() -> Option<PathBuf> {
    PLACES.existing()
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

/// Whether the system has a bpffs in its usual place.
pub fn is_system_mounted() -> bool {
    is_bpffs(Path::new(PLACES.system))
}

/// Removes the directory for pins if it is empty, and the bpffs with it if that is steer's own. A
/// directory that holds pins is left as it is.
pub fn remove_root_if_empty() -> Result<(), BpffsError> {
    PLACES.remove_if_empty()
}

struct Places<'a> {
    own: &'a str,
    system: &'a str,
}

impl Places<'_> {
    fn root(&self) -> Result<PathBuf, BpffsError> {
        if let Some(root) = self.existing() {
            return Ok(root);
        }
        if is_bpffs(Path::new(self.system)) {
            let path = self.in_system();
            make_directory(&path)?;
            return Ok(path);
        }
        let path = PathBuf::from(self.own);
        make_directory(&path)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match mount("bpf", &path, "bpf", flags, c"mode=0700") {
            Ok(()) => Ok(path),
            Err(error) => {
                remove_directories(&path)?;
                let source = error.into();
                Err(BpffsError::Mount { path, source })
            }
        }
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

    fn existing(&self) -> Option<PathBuf> {
        // steer's own goes first: it may hold pins from before somebody mounted the system's.
        [PathBuf::from(self.own), self.in_system()]
            .into_iter()
            .find(|path| is_bpffs(path))
    }

    fn remove_if_empty(&self) -> Result<(), BpffsError> {
        let own = PathBuf::from(self.own);
        if is_bpffs(&own) && is_empty(&own) {
            match unmount(&own, UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                // Somebody is looking into it, or it was mounted for this user: it stays.
                Err(Errno::BUSY | Errno::PERM) => return Ok(()),
                Err(error) => {
                    let source = error.into();
                    return Err(BpffsError::Remove { path: own, source });
                }
            }
        }
        if !is_bpffs(&own) {
            remove_directories(&own)?;
        }
        remove_directory(&self.in_system())
    }

    fn in_system(&self) -> PathBuf {
        Path::new(self.system).join("steer")
    }
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

/// Removes `path` and the directory above it, which steer's locks share.
fn remove_directories(path: &Path) -> Result<(), BpffsError> {
    remove_directory(path)?;
    path.parent().map_or(Ok(()), remove_directory)
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
mod tests {
    use std::{env, process, thread};

    use rustix::{
        mount::{MountPropagationFlags, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };

    use super::*;

    #[test]
    fn an_ordinary_directory_is_no_bpffs() {
        assert!(!is_bpffs(Path::new("/")));
        assert!(!is_bpffs(Path::new("/nowhere")));
    }

    #[test]
    fn nothing_to_remove_is_no_error() {
        let places = Places {
            own: "/nowhere/steer/bpf",
            system: "/nowhere/bpf",
        };
        places.remove_if_empty().expect("nothing to do");
        assert_eq!(places.existing(), None);
    }

    /// Runs `body` in a mount namespace of its own, with a directory that is removed afterwards.
    fn with_mounts(name: &str, body: impl FnOnce(&Path) + Send + 'static) {
        let base = env::temp_dir().join(format!("steer-bpffs-{}-{name}", process::id()));
        fs::create_dir(&base).expect("a directory");
        let inside = base.clone();
        let outcome = thread::spawn(move || {
            // SAFETY: this thread gets a view of the mounts, and with it a working directory and
            // umask, of its own; nothing in this process relies on sharing those between threads.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).expect("private mounts");
            body(&inside);
        })
        .join();
        fs::remove_dir_all(&base).expect("the directory's removal");
        outcome.expect("the test");
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("its mode").mode() & 0o777
    }

    #[test]
    #[ignore = "privileged"]
    fn without_a_bpffs_one_is_mounted_and_removed() {
        with_mounts("own", |base| {
            let own = base.join("steer/bpf");
            let places = Places {
                own: own.to_str().expect("a path"),
                system: "/nowhere",
            };
            assert_eq!(places.existing(), None);
            assert_eq!(places.root().expect("a root"), own);
            assert!(is_bpffs(&own));
            assert_eq!(mode(&own), 0o700);
            assert_eq!(places.existing(), Some(own.clone()));
            assert_eq!(places.root().expect("the same root"), own);

            fs::create_dir(own.join("pins")).expect("a directory of pins");
            places.remove_if_empty().expect("nothing to do");
            assert!(is_bpffs(&own), "pins are left alone");

            fs::remove_dir(own.join("pins")).expect("its removal");
            places.remove_if_empty().expect("the removal");
            assert_eq!(places.existing(), None);
            assert!(!base.join("steer").exists());
        });
    }

    #[test]
    #[ignore = "privileged"]
    fn the_systems_bpffs_is_used_and_kept() {
        with_mounts("system", |base| {
            let system = base.join("bpf");
            fs::create_dir(&system).expect("a directory");
            mount("bpf", &system, "bpf", MountFlags::empty(), None).expect("a bpffs");
            let own = base.join("steer/bpf");
            let places = Places {
                own: own.to_str().expect("a path"),
                system: system.to_str().expect("a path"),
            };
            assert_eq!(places.existing(), None);
            let root = places.root().expect("a root");
            assert_eq!(root, system.join("steer"));
            assert_eq!(mode(&root), 0o700);
            assert!(!base.join("steer").exists());

            fs::create_dir(root.join("pins")).expect("a directory of pins");
            places.remove_if_empty().expect("nothing to do");
            assert_eq!(places.existing(), Some(root.clone()));

            fs::remove_dir(root.join("pins")).expect("its removal");
            places.remove_if_empty().expect("the removal");
            assert_eq!(places.existing(), None);
            assert!(is_bpffs(&system));
            unmount(&system, UnmountFlags::empty()).expect("the end");
        });
    }
}
