//! Opens directories that no stranger can exchange for others. Only root, this user, and a user
//! to whom one of these two gave a directory may be able to.
//!
//! Every component of a path is opened by itself, without following links. This is needed because
//! a bpffs with the kernel's default mode lets every local user make the directory in which
//! steer's pins belong.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstat, openat},
    io::Errno,
    process::geteuid,
};

/// Write permission for a directory's group or for everybody.
const SHARED: u32 = 0o022;

/// In a directory with this bit, only the owner of an entry or of the directory may rename the
/// entry.
const STICKY: u32 = 0o1000;

/// Why steer doesn't open a directory.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Somebody else could change what is in the directory.
    #[error("{} is not safe to use: {why}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The directory doesn't exist.
    #[error("{} doesn't exist", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Another user owns the directory, or one on the way to it, and this user can't enter it.
    #[error(
        "failed to open {}: this user may not; run steer with sudo, or with CAP_DAC_READ_SEARCH \
         (docs/operations.md)",
        path.display()
    )]
    Denied {
        /// The directory.
        path: PathBuf,
    },
    /// It can't be opened.
    #[error("failed to open the directory {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// The owner and the mode of a directory, which say who may change it.
#[derive(Clone, Copy, Debug)]
struct Facts {
    uid: u32,
    mode: u32,
}

/// What makes a directory unsafe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// The owner may have made the directory without leave.
    Owner,
    /// Others may write to the directory.
    Mode,
}

/// Opens a directory, to read it and to lock it.
pub fn open(path: &Path) -> Result<OwnedFd, TrustError> {
    let me = geteuid().as_raw();
    let mut directory = open_one(CWD, Path::new("/"), Path::new("/"), OFlags::PATH)?;
    let mut above = facts(&directory, Path::new("/"))?;
    let mut reached = PathBuf::from("/");
    let mut components = path
        .components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .map(|name| PathBuf::from(name.as_os_str()))
        .peekable();
    while let Some(name) = components.next() {
        let last = components.peek().is_none();
        let how = if last { OFlags::RDONLY } else { OFlags::PATH };
        reached.push(&name);
        directory = open_one(&directory, &name, &reached, how)?;
        let found = facts(&directory, &reached)?;
        if let Some(doubt) = doubt(above, found, me, last) {
            let why = explain(doubt, found, &reached);
            return Err(TrustError::Unsafe { path: reached, why });
        }
        above = found;
    }
    Ok(directory)
}

/// Whether a path still names an open directory.
pub fn is_at(directory: impl AsFd, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (fstat(directory), fs::symlink_metadata(path)) else {
        return false;
    };
    opened.st_ino == named.ino() && opened.st_dev == named.dev()
}

/// What makes the directory `found` unsafe, if anything. `above` is the directory that it is in,
/// and `me` is the user who asks. `last` says that it is the directory that was asked for, rather
/// than one on the way there.
fn doubt(above: Facts, found: Facts, me: u32, last: bool) -> Option<Doubt> {
    let is_shared = |directory: Facts| directory.mode & SHARED != 0;
    if is_shared(above) && found.uid != 0 && found.uid != me {
        return Some(Doubt::Owner);
    }
    if is_shared(found) && (last || found.mode & STICKY == 0) {
        return Some(Doubt::Mode);
    }
    None
}

fn explain(doubt: Doubt, found: Facts, path: &Path) -> String {
    let Facts { uid, mode } = found;
    let path = path.display();
    match doubt {
        Doubt::Owner => format!(
            "it belongs to user {uid}, who could make it because everybody may write to the directory \
             above it; unless that user runs steer, remove it (rm -r {path})"
        ),
        Doubt::Mode => format!(
            "others than its owner (user {uid}) may write to it (mode {:o}): look whose the files in it are, \
             then run `chmod go-w {path}`",
            mode & 0o7777
        ),
    }
}

fn open_one(
    above: impl AsFd,
    name: &Path,
    path: &Path,
    how: OFlags,
) -> Result<OwnedFd, TrustError> {
    let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty()).map_err(|error| {
        let path = path.to_owned();
        match error {
            Errno::NOENT => TrustError::Missing { path },
            Errno::ACCESS => TrustError::Denied { path },
            Errno::NOTDIR | Errno::LOOP => TrustError::Unsafe {
                why: "it is a link, or not a directory: remove it".into(),
                path,
            },
            error => TrustError::Io {
                path,
                source: error.into(),
            },
        }
    })
}

fn facts(directory: impl AsFd, path: &Path) -> Result<Facts, TrustError> {
    match fstat(directory) {
        Ok(found) => Ok(Facts {
            uid: found.st_uid,
            mode: found.st_mode,
        }),
        Err(error) => Err(TrustError::Io {
            path: path.to_owned(),
            source: error.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::fs::PermissionsExt as _, process};

    use proptest::prelude::*;

    use super::*;

    const ME: u32 = 1000;
    const OTHER: u32 = 1001;

    fn judged(above: (u32, u32), found: (u32, u32), last: bool) -> Option<Doubt> {
        let facts = |(uid, mode)| Facts { uid, mode };
        doubt(facts(above), facts(found), ME, last)
    }

    #[test]
    fn who_may_have_made_it_counts() {
        // In systemd's bpffs, only root can give a directory away.
        assert_eq!(judged((0, 0o700), (OTHER, 0o700), true), None);
        assert_eq!(judged((0, 0o755), (OTHER, 0o755), true), None);
        // In a bpffs with the kernel's default mode, anybody can make a directory.
        let default = (0, 0o1777);
        assert_eq!(judged(default, (OTHER, 0o700), true), Some(Doubt::Owner));
        assert_eq!(judged(default, (OTHER, 0o700), false), Some(Doubt::Owner));
        assert_eq!(judged(default, (ME, 0o700), true), None);
        assert_eq!(judged(default, (0, 0o700), true), None);
    }

    #[test]
    fn who_may_write_to_it_counts() {
        let root = (0, 0o755);
        assert_eq!(judged(root, (0, 0o1777), true), Some(Doubt::Mode));
        assert_eq!(judged(root, (0, 0o1777), false), None, "on the way");
        assert_eq!(judged(root, (0, 0o777), false), Some(Doubt::Mode));
        assert_eq!(judged(root, (ME, 0o720), true), Some(Doubt::Mode));
        assert_eq!(judged(root, (ME, 0o755), true), None);
    }

    proptest! {
        /// No directory passes that a stranger could have made, or may write to.
        #[test]
        fn what_passes_is_nobody_elses(
            above in (0_u32..4, 0_u32..0o2000),
            found in (0_u32..4, 0_u32..0o2000),
        ) {
            let facts = |(uid, mode)| Facts { uid, mode };
            if doubt(facts(above), facts(found), 1, true).is_none() {
                prop_assert!(found.1 & 0o022 == 0);
                prop_assert!(found.0 <= 1 || above.1 & 0o022 == 0);
            }
        }
    }

    #[test]
    fn a_path_is_opened_without_links() {
        let base = env::temp_dir().join(format!("steer-trusted-{}", process::id()));
        let inner = base.join("a/b");
        fs::create_dir_all(&inner).expect("directories");
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
        };
        for directory in [&base, &base.join("a"), &inner] {
            mode(directory, 0o700);
        }
        let opened = open(&inner).expect("a directory");
        assert!(is_at(&opened, &inner));
        std::os::unix::fs::symlink(base.join("a"), base.join("link")).expect("a link");
        for link in [base.join("link"), base.join("link/b")] {
            let refused = open(&link).expect_err("a link");
            assert!(matches!(refused, TrustError::Unsafe { .. }), "{refused}");
        }
        let missing = open(&inner.join("c")).expect_err("nothing there");
        assert!(matches!(missing, TrustError::Missing { .. }), "{missing}");
        mode(&base.join("a"), 0o777);
        let refused = open(&inner).expect_err("a shared directory");
        assert!(refused.to_string().contains("mode 777"), "{refused}");
        fs::rename(&inner, base.join("a/c")).expect("another name");
        assert!(!is_at(&opened, &inner));
        fs::remove_dir_all(&base).expect("its removal");
    }
}
