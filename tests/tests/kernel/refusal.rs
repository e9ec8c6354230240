//! A kernel that is too old: steer says so and changes nothing. On a newer kernel the tests make it
//! look old; `cargo xtask vm` runs them on one that is.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use steer_tests::{
    PORT, census,
    fixture::with_workers,
    isolate::{self, isolate},
    steer::{code, steer},
    texts,
    workers::local,
};
use steer_user::kernel::kernel_version;

/// Where the kernel says its release.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Makes this kernel look old to this test, unless it is. Returns its release.
fn old_kernel() -> anyhow::Result<String> {
    if kernel_version::require().is_ok() {
        let old = Path::new("/run/osrelease");
        fs::write(old, "5.10.0-35-cloud-amd64\n")?;
        isolate::cover(Path::new(RELEASE), old)?;
        fs::remove_file(old)?;
    }
    Ok(fs::read_to_string(RELEASE)?.trim().to_owned())
}

#[test]
#[ignore = "privileged"]
fn attach_says_which_kernel_it_needs() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let release = old_kernel()?;
    for more in [&[][..], &["--migrate", "on"], &["--policy", "least"]] {
        let refused = steer([&["attach", "--port", "3000"], more].concat())?;
        ensure!(refused.code == Some(code::KERNEL), "{refused:?}");
        ensure!(refused.stdout.is_empty(), "{refused:?}");
        let lines: Vec<&str> = refused.stderr.lines().collect();
        ensure!(
            lines.len() == 1 && texts::has_all(lines[0], &texts::refused::old_kernel(&release)),
            "{refused:?}"
        );
        ensure!(isolate::leftovers()?.is_empty());
    }
    let census = census::one_by_one(local(PORT), 40)?;
    ensure!(
        census.answered() == 40 && census.served.len() == workers.len(),
        "{census:?}"
    );
    ensure!(!census::takes_turns(local(PORT), 2)?);
    for command in ["status", "detach"] {
        let refused = steer([command, "--port", "3000"])?;
        ensure!(refused.code == Some(code::KERNEL), "{refused:?}");
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn doctor_names_it() -> anyhow::Result<()> {
    isolate()?;
    let release = old_kernel()?;
    let finished = steer(["doctor", "--json"])?;
    ensure!(finished.code == Some(code::KERNEL), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout)?;
    let checks = report["checks"].as_array().context("no checks")?;
    let of = |name| checks.iter().find(|check| check["name"] == name);
    let kernel = of("kernel").context("no check of the kernel")?;
    ensure!(kernel["state"] == "missing", "{report}");
    let detail = kernel["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(&release), "{report}");
    ensure!(report["works"] == false, "{report}");
    ensure!(isolate::leftovers()?.is_empty());
    Ok(())
}
