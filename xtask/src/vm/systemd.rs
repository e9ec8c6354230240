//! The system that is around steer in a machine: Debian's systemd, which has to start steer by its
//! unit, the programs that tests and units start, and what these can't do without.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use xtask::say;

use super::packages::Packages;

/// Its program.
const SYSTEMD: &str = "usr/lib/systemd/systemd";

/// It, and what packages needn't ask for because every usual system has it.
const PACKAGES: [&str; 5] = ["systemd", "coreutils", "dash", "procps", "util-linux"];

/// Directories that are the ones of the same name in usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// What nobody reads there.
const UNREAD: [&str; 5] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo",
];

/// The directory that holds it, as its root.
pub(super) fn install(packages: &Packages) -> Result<PathBuf> {
    let root = packages.directory().join("systemd");
    if root.join(SYSTEMD).exists() {
        return Ok(root);
    }
    say::step("unpacking systemd");
    // What an earlier run didn't end.
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let unpacked = root.with_extension("unpacked");
    unpack(packages, &unpacked)
        .with_context(|| format!("failed to unpack systemd into {}", unpacked.display()))?;
    fs::rename(&unpacked, &root)?;
    ensure!(
        root.join(SYSTEMD).exists(),
        "Debian's systemd has no {SYSTEMD}"
    );
    Ok(root)
}

fn unpack(packages: &Packages, root: &Path) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    // Nothing is installed there.
    let none = packages.directory().join("none-installed");
    fs::write(&none, "")?;
    packages.unpack_with_needs(&packages.codename, &PACKAGES, &none, root)?;
    // Made by a script of the package where the package doesn't hold it.
    let shell = root.join("usr/bin/sh");
    if !shell.is_symlink() {
        symlink("dash", shell)?;
    }
    for unread in UNREAD {
        let unread = root.join(unread);
        if unread.exists() {
            fs::remove_dir_all(unread)?;
        }
    }
    // Without one the system would take this for its first boot and ask questions.
    fs::write(root.join("etc/machine-id"), format!("{:032x}\n", 1))?;
    Ok(())
}
