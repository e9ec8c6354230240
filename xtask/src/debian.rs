//! Debian's packages.

use std::{path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::{command, say};

/// How often an update of the lists is tried. Unattended upgrades hold the lock of the lists for a
/// while after boot, and apt can wait for dpkg's lock only.
const UPDATE_TRIES: u32 = 6;
const UPDATE_PAUSE: Duration = Duration::from_secs(10);

/// Whether this system installs its packages with apt.
pub fn is_here() -> bool {
    Path::new("/usr/bin/apt-get").exists() && Path::new("/usr/bin/dpkg-query").exists()
}

/// Returns those of the packages that aren't installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // dpkg-query fails if it doesn't know one of the names, and still prints the others.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    packages
        .iter()
        .copied()
        .filter(|package| {
            let installed = format!("{package} installed");
            !known.lines().any(|line| line == installed)
        })
        .collect()
}

/// Installs those of the packages that are missing. apt removes nothing that is installed for
/// them.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    say::step(format_args!(
        "installing Debian's packages {}",
        missing.join(", ")
    ));
    update()?;
    let mut install = apt_get()?;
    install
        .args(["--option", "DPkg::Lock::Timeout=300"])
        .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(&missing);
    command::run(&mut install)
        .with_context(|| format!("failed to install Debian's packages {}", missing.join(", ")))
}

fn update() -> Result<()> {
    for _ in 1..UPDATE_TRIES {
        if command::run(apt_get()?.arg("update")).is_ok() {
            return Ok(());
        }
        thread::sleep(UPDATE_PAUSE);
    }
    // If a foreign source doesn't answer, the update of all sources fails. The lists may be good
    // enough.
    if let Err(error) = command::run(apt_get()?.arg("update")) {
        say::step(format_args!("going on with the old lists: {error:#}"));
    }
    Ok(())
}

fn apt_get() -> Result<Command> {
    // The variable goes through `env`, because sudo drops it.
    let mut command = command::as_root("/usr/bin/env")?;
    command
        .arg("DEBIAN_FRONTEND=noninteractive")
        .args(["/usr/bin/apt-get", "--quiet"]);
    Ok(command)
}
