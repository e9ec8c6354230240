//! The system around steer in a machine: Debian's systemd, which has to start steer by its unit,
//! the programs that tests and units start, and what these can't do without.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use xtask::say;

use super::packages::Packages;

/// The program of systemd.
const SYSTEMD: &str = "usr/lib/systemd/systemd";

/// systemd, and what packages don't ask for because every usual system has it.
const PACKAGES: [&str; 5] = ["systemd", "coreutils", "dash", "procps", "util-linux"];

/// Directories at the root that are links to those of the same name in usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// What nobody reads in a machine.
const UNREAD: [&str; 5] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo",
];

/// Unpacks the system if that hasn't been done, and returns the directory that is its root.
pub(super) fn install(packages: &Packages) -> Result<PathBuf> {
    let root = packages.directory().join("systemd");
    if root.join(SYSTEMD).exists() {
        return Ok(root);
    }
    say::step("unpacking systemd");
    // An earlier run may have left an unfinished directory.
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
    // In the system of the machine nothing is installed yet.
    let none = packages.directory().join("none-installed");
    fs::write(&none, "")?;
    packages.unpack_with_needs(&packages.codename, &PACKAGES, &none, root)?;
    // If the package doesn't hold the link, a script of the package makes it.
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
    // Without this file the system would take this for its first boot and ask questions.
    fs::write(root.join("etc/machine-id"), format!("{:032x}\n", 1))?;
    Ok(())
}
