//! What a machine boots into: a small Debian system of this machine's release, and steer, its
//! tests and an init as they are built for this machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use xtask::{
    command,
    ebpf::{self, Object},
    toolchain,
};

use super::{archive::Archive, kernel::Kernel};
use crate::cmd::{
    Executable, ONLY_IN_MACHINES, build,
    modules::{self, Module, PACKAGE},
    suite,
};

/// Where programs go in the guest. Tests look for the programs that they start one directory above
/// their own, as in cargo's target directory.
const PROGRAMS: &str = "steer";
const TESTS: &str = "steer/deps";

/// The directory in which init finds modules to load, in the order of their names.
const MODULES: &str = "modules";

/// The module of tests that must pass on a kernel that steer doesn't support.
pub(super) const REFUSAL: &str = "refusal";

/// The program that is PID 1 in the guest, from the package of the privileged tests.
const INIT: &str = "steer-vm-init";

/// Tests that don't run in the guest: tests of servers that the guest hasn't got, and tests that
/// need a rate of connections or measure how soon something happens. An emulated processor is too
/// slow for these.
const LEFT_OUT: [&str; 10] = [
    "browser", "bun", "churn", "demo", "gaps", "nginx", "python", "replaced", "rolling", "stateful",
];

/// An initial file system, and which tests are in it.
pub(super) struct Guest {
    /// The file of the file system.
    pub(super) archive: PathBuf,
    /// The modules of tests that are in the file system, in the order in which they run.
    modules: Vec<Module>,
}

impl Guest {
    /// Builds the file system around the system that is in a directory, with these modules of
    /// tests. If none is named, all are built in.
    pub(super) fn build(directory: &Path, system: &Path, only: &[String]) -> Result<Self> {
        let toolchain = toolchain::install()?;
        let policies = ebpf::build(&toolchain, Object::Policies)?;
        // This is a release build: without optimization steer takes nine times as many
        // instructions to start.
        let steer = build()?;
        let built = suite::tests()?;
        let mut modules = modules::modules(&built)?;
        modules.retain(|module| {
            let is_asked = only.is_empty() || module.name == REFUSAL || module.is_any(only);
            let is_left_out = LEFT_OUT.contains(&module.name.as_str());
            module.package_dir.ends_with(PACKAGE) && is_asked && !is_left_out
        });

        let archive = directory.join("guest.cpio");
        let mut writer = Archive::new(&archive)?;
        writer.tree(system)?;
        for directory in ["dev", MODULES, PROGRAMS, TESTS] {
            writer.directory(directory)?;
        }
        // Without the console init has no output before it has mounted /dev.
        writer.console()?;
        writer.program(&format!("{PROGRAMS}/steer-policies"), &policies)?;
        let stripped = directory.join("stripped");
        let mut program = |place: &str, file: &Path| {
            strip(file, &stripped)?;
            writer.program(place, &stripped)
        };
        program(&format!("{PROGRAMS}/steer"), &steer)?;
        for Executable { target, file, .. } in built.iter().filter(|built| !built.is_test) {
            let place = if target == INIT {
                "init".to_owned()
            } else {
                format!("{PROGRAMS}/{target}")
            };
            program(&place, file)?;
        }
        let of_tests = modules.iter().map(|module| (&module.program, &module.file));
        for (name, file) in of_tests.collect::<BTreeMap<_, _>>() {
            program(&format!("{TESTS}/{name}"), file)?;
        }
        writer.finish()?;
        // Tests that need systemd run after all others, and tests that change the kernel run last.
        modules.sort_by_key(|Module { name, .. }| {
            let last = ONLY_IN_MACHINES.iter().position(|only| only == name);
            (last, name.clone())
        });
        Ok(Self { archive, modules })
    }

    /// Writes the file system of one kernel: this file system, and the kernel's modules.
    pub(super) fn with_modules(&self, kernel: &Kernel, to: &Path) -> Result<()> {
        fs::copy(&self.archive, to).with_context(|| format!("failed to write {}", to.display()))?;
        // The kernel unpacks an archive that follows an archive over it.
        let mut more = Archive::after(to)?;
        for (place, file) in kernel.modules().iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            more.program(&format!("{MODULES}/{place}-{name}"), file)?;
        }
        more.finish()
    }

    /// The modules of these names as init takes them: `program::module`, in the order in which
    /// they run. If no name is given, these are all modules.
    pub(super) fn modules(&self, names: &[String]) -> Result<String> {
        for name in names {
            ensure!(
                self.modules.iter().any(|module| module.is(name)),
                "no module of tests {name} for a machine: there are {}",
                join(self.modules.iter().map(|module| module.name.clone()), ", ")
            );
        }
        let asked = self.modules.iter();
        let asked = asked.filter(|module| names.is_empty() || module.is_any(names));
        Ok(join(
            asked.map(|Module { program, name, .. }| format!("{program}::{name}")),
            ",",
        ))
    }
}

fn join(names: impl Iterator<Item = String>, between: &str) -> String {
    names.collect::<Vec<_>>().join(between)
}

/// Writes a program without what only a debugger reads: all programs are in memory at once.
fn strip(file: &Path, to: &Path) -> Result<()> {
    command::run(Command::new("strip").arg("-o").arg(to).arg(file))
}

/// The environment variable, with its value, that names the policies' object to the tests.
pub(super) fn policies_variable() -> String {
    format!("STEER_POLICIES_OBJECT=/{PROGRAMS}/steer-policies")
}
