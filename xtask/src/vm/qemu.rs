//! The emulator, QEMU.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use xtask::{command, say};

use super::packages::{self, Packages};

/// An unpacked QEMU.
pub(super) struct Qemu(PathBuf);

/// Unpacks QEMU, from this release's backports if it has any. With Debian 12's own QEMU one boot
/// in seven hangs while QEMU emulates.
pub(super) fn install(packages: &Packages) -> Result<Qemu> {
    let directory = packages.directory().join("qemu");
    let qemu = Qemu(directory.clone());
    if command::is_program(&qemu.program()) {
        return Ok(qemu);
    }
    say::step("unpacking QEMU");
    let release = match packages.codename.as_str() {
        "bookworm" => "bookworm-backports",
        own => own,
    };
    let names = ["qemu-system-x86", "seabios"];
    packages.unpack_with_needs(release, &names, Path::new(packages::INSTALLED), &directory)?;
    ensure!(
        command::is_program(&qemu.program()),
        "Debian's qemu-system-x86 has no {}",
        qemu.program().display()
    );
    Ok(qemu)
}

impl Qemu {
    fn program(&self) -> PathBuf {
        self.0.join("usr/bin/qemu-system-x86_64")
    }

    /// QEMU as a command that finds QEMU's own files in the directory into which they were
    /// unpacked.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|directory| self.0.join(directory).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        for firmware in ["qemu", "seabios"] {
            command
                .arg("-L")
                .arg(self.0.join("usr/share").join(firmware));
        }
        command
    }

    /// The directory into which QEMU was unpacked.
    pub(super) fn directory(&self) -> &Path {
        &self.0
    }
}
