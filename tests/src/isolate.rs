//! Namespaces that a test has to itself.

use std::{
    ffi::CString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::net;

/// Where a bpffs usually is.
const BPFFS: &str = "/sys/fs/bpf";

/// Where steer keeps what it doesn't pin.
const RUN: &str = "/run";

/// What the kernel itself may put into a new bpffs.
const KERNELS_OWN: [&str; 2] = ["/sys/fs/bpf/maps.debug", "/sys/fs/bpf/progs.debug"];

/// Puts the calling thread, and all processes and threads that it starts from then on, into a
/// network namespace and a mount namespace of their own: loopback is up, `/run` is empty and the
/// bpffs is fresh. All of it is gone with the last process in it.
///
/// # Errors
/// When the caller isn't root or the kernel refuses.
pub fn isolate() -> anyhow::Result<()> {
    namespaces()?;
    mount_on("bpf", BPFFS, "mode=0700")
}

/// [`isolate`] without a bpffs.
///
/// # Errors
/// As [`isolate`].
pub fn isolate_without_bpffs() -> anyhow::Result<()> {
    namespaces()?;
    // Hides the bpffs that the machine may have.
    mount_on("tmpfs", BPFFS, "mode=0700")
}

/// Puts `file` in the place of an existing file, for this thread and its children only.
///
/// # Errors
/// When the kernel refuses.
pub fn cover(place: &Path, file: &Path) -> anyhow::Result<()> {
    mount_bind(file, place).with_context(|| format!("failed to cover {}", place.display()))
}

/// Every file below the places where steer keeps state, directories not counted.
///
/// # Errors
/// When a directory can't be read.
pub fn leftovers() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for root in [BPFFS, RUN] {
        walk(Path::new(root), &mut files)?;
    }
    files.retain(|file| KERNELS_OWN.iter().all(|own| Path::new(own) != file));
    Ok(files)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("failed to list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn namespaces() -> anyhow::Result<()> {
    ensure!(
        geteuid().is_root(),
        "privileged tests need root: run them with `cargo xtask test`"
    );
    // SAFETY: descriptors stay shared, and so valid; the thread gets a view of the network and of
    // the mounts that differs from the other threads', which no safe code depends on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .context("failed to make namespaces")?;
    make_mounts_private()?;
    mount_on("tmpfs", RUN, "mode=0755")?;
    net::loopback_up()
}

/// Keeps what is mounted from now on to this namespace.
fn make_mounts_private() -> anyhow::Result<()> {
    let everything = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    match mount_change("/", everything) {
        // In a chroot the root isn't a mount point: each of those that can be seen is changed.
        Err(Errno::INVAL) => {}
        result => return result.context("failed to make the mounts private"),
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        mount_change(place, MountPropagationFlags::PRIVATE)
            .with_context(|| format!("failed to make the mount on {place} private"))?;
    }
    Ok(())
}

fn mount_on(kind: &str, place: &str, options: &str) -> anyhow::Result<()> {
    let options = CString::new(options)?;
    mount(kind, place, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("failed to mount a {kind} on {place}"))
}
