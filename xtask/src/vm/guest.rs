//! What a machine boots into: steer, its tests and an init, all statically linked.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use cpio::newc::{self, Builder, ModeFileType};
use xtask::{
    ebpf::{self, Object},
    say, toolchain,
};

use super::{
    kernel::Kernel,
    packages::{self, Packages},
};
use crate::cmd::{Executable, ONLY_IN_MACHINES, executables_static};

/// Where programs go in the guest. Tests look for the programs that they start one directory above
/// their own, as in cargo's target directory.
const PROGRAMS: &str = "steer";
const TESTS: &str = "steer/deps";

/// Where init finds modules to load, in the order of their names.
const MODULES: &str = "modules";

/// PID 1, a program of the package of the privileged tests.
const INIT: &str = "steer-vm-init";

/// Tests of servers that the guest hasn't got, and tests that need a rate of connections or measure how
/// soon something happens, for which an emulated processor is too slow.
const LEFT_OUT: [&str; 7] = [
    "bun", "churn", "demo", "nginx", "python", "rolling", "stateful",
];

/// Programs of busybox that tests start.
const APPLETS: [&str; 4] = ["cat", "sh", "sleep", "true"];

/// An initial file system, and what is in it.
pub(super) struct Guest {
    /// The file.
    pub(super) archive: PathBuf,
    /// The files of tests.
    pub(super) tests: Vec<String>,
}

impl Guest {
    /// Builds it all.
    pub(super) fn build(directory: &Path, packages: &Packages) -> Result<Self> {
        let toolchain = toolchain::install()?;
        let policies = ebpf::build(&toolchain, Object::Policies)?;
        say::step("building steer and its tests for the machines");
        // At once, so that what both need is built once.
        let both = ["--package", "steer-tests", "--package", "steer-user"];
        let built = executables_static(&[&["build", "--tests", "--bins"], &both[..]].concat())?;

        let archive = directory.join("guest.cpio");
        let mut writer = Archive::new(&archive)?;
        for directory in ["dev", "bin", MODULES, PROGRAMS, TESTS] {
            writer.directory(directory)?;
        }
        // Without it init has no output before it has mounted /dev.
        writer.console()?;
        let shell = busybox(directory, packages)?;
        for applet in APPLETS {
            writer.program(&format!("bin/{applet}"), &shell)?;
        }
        writer.program(&format!("{PROGRAMS}/steer-policies"), &policies)?;
        let mut tests = Vec::new();
        for Executable {
            target,
            file,
            is_test,
            ..
        } in &built
        {
            let is_left_out = LEFT_OUT.contains(&target.as_str());
            if !is_test {
                let place = if target == INIT {
                    "init".to_owned()
                } else {
                    format!("{PROGRAMS}/{target}")
                };
                writer.program(&place, file)?;
            } else if has_tests(target) && !is_left_out {
                writer.program(&format!("{TESTS}/{target}"), file)?;
                tests.push(target.clone());
            }
        }
        writer.finish()?;
        // What changes the kernel comes after all others.
        tests.sort_by_key(|test| (ONLY_IN_MACHINES.contains(&test.as_str()), test.clone()));
        Ok(Self { archive, tests })
    }

    /// Writes the file system of one kernel, which is this one and the kernel's modules.
    pub(super) fn with_modules(&self, kernel: &Kernel, to: &Path) -> Result<()> {
        fs::copy(&self.archive, to).with_context(|| format!("failed to write {}", to.display()))?;
        // An archive after an archive is unpacked over it.
        let mut more = Archive::after(to)?;
        for (place, file) in kernel.modules().iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            more.program(&format!("{MODULES}/{place}-{name}"), file)?;
        }
        more.finish()
    }

    /// Checks that there are tests of these names.
    pub(super) fn check(&self, tests: &[String]) -> Result<()> {
        for test in tests {
            ensure!(
                self.tests.contains(test),
                "no file of tests {test} for a machine: there are {}",
                self.tests.join(", ")
            );
        }
        Ok(())
    }
}

/// Libraries and programs are built with an empty set of ignored tests.
fn has_tests(target: &str) -> bool {
    !target.starts_with("steer")
}

/// Debian's static busybox.
fn busybox(directory: &Path, packages: &Packages) -> Result<PathBuf> {
    let busybox = directory.join("busybox");
    if !busybox.exists() {
        let package = packages.download("busybox-static")?;
        packages::unpack_flat(&package, &["./bin/busybox", "./usr/bin/busybox"], directory)?;
    }
    Ok(busybox)
}

/// A cpio archive that is being written.
struct Archive {
    writer: BufWriter<File>,
    file: PathBuf,
    inodes: u32,
}

impl Archive {
    fn new(file: &Path) -> Result<Self> {
        Self::of(
            OpenOptions::new().write(true).create(true).truncate(true),
            file,
        )
    }

    fn after(file: &Path) -> Result<Self> {
        Self::of(OpenOptions::new().append(true), file)
    }

    fn of(options: &OpenOptions, file: &Path) -> Result<Self> {
        let writer = options
            .open(file)
            .with_context(|| format!("failed to write {}", file.display()))?;
        Ok(Self {
            writer: BufWriter::new(writer),
            file: file.to_owned(),
            inodes: 0,
        })
    }

    fn entry(&mut self, entry: Builder, bytes: &[u8]) -> Result<()> {
        self.inodes += 1;
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB")?;
        let mut writer = entry.ino(self.inodes).write(&mut self.writer, size);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let entry = Builder::new(name).nlink(2).mode(0o755);
        self.entry(entry.set_mode_file_type(ModeFileType::Directory), &[])
    }

    fn console(&mut self) -> Result<()> {
        let entry = Builder::new("dev/console").mode(0o600);
        let entry = entry.rdev_major(5).rdev_minor(1);
        self.entry(entry.set_mode_file_type(ModeFileType::Char), &[])
    }

    fn program(&mut self, name: &str, file: &Path) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        let entry = Builder::new(name).mode(0o755);
        self.entry(entry.set_mode_file_type(ModeFileType::Regular), &bytes)
    }

    fn finish(mut self) -> Result<()> {
        newc::trailer(&mut self.writer)?;
        self.writer
            .flush()
            .with_context(|| format!("failed to write {}", self.file.display()))
    }
}

/// The variable and its value that name the policies' object to the tests.
pub(super) fn policies_variable() -> String {
    format!("STEER_POLICIES_OBJECT=/{PROGRAMS}/steer-policies")
}
