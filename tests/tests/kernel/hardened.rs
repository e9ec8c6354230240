//! Kernels that are hardened while they run. Some of it lasts until the next boot, so this runs only in
//! the machines of `cargo xtask vm`, after all other tests.

use std::{env, fs};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT, census,
    fixture::with_workers,
    steer::{Attach, code, status_when, steer},
    texts,
    workers::{self, Worker, local},
};

/// Set to 1 where the kernel is the tests' own.
const OWN_KERNEL: &str = "STEER_OWN_KERNEL";

const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

fn set(path: &str, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("failed to write {value} to {path}"))
}

/// One function, because each step lasts.
#[test]
#[ignore = "privileged"]
fn a_kernel_that_is_hardened_step_by_step() -> anyhow::Result<()> {
    if env::var(OWN_KERNEL).as_deref() != Ok("1") {
        // The runner doesn't come here.
        anyhow::bail!("this would harden the kernel of this machine until its next boot");
    }
    let mut workers = with_workers(3)?;
    let evenly = |workers: &[Worker]| {
        census::one_by_one(local(PORT), 30)?.exactly(&workers::pids(workers), 30 / workers.len())
    };
    for (path, value) in [(YAMA, "1"), (YAMA, "2"), (LOCKDOWN, "integrity")] {
        set(path, value)?;
        let attach = Attach::start(PORT, "rr", &[])?;
        evenly(&workers).with_context(|| format!("{path}: {value}"))?;
        attach.detach()?;
    }

    // Else the first warning may be that this kernel can't migrate.
    let mut attach = Attach::start(PORT, "rr", &["--migrate", "off"])?;
    set(LOCKDOWN, "confidentiality")?;
    evenly(&workers).context("steering when the kernel was locked down")?;
    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    status_when(PORT, |seen| seen.live().count() == 4)?;
    workers.pop().context("a worker")?.stop()?;
    status_when(PORT, |seen| seen.live().count() == 3)?;
    evenly(&workers)?;
    let refused = steer(["attach", "--port", "3001"])?;
    ensure!(
        refused.code == Some(code::KERNEL) && refused.stderr.contains(texts::refused::LOCKED_DOWN),
        "{refused:?}"
    );

    set(YAMA, "3")?;
    evenly(&workers).context("steering when Yama forbade to take listeners")?;
    let late = Worker::start("127.0.0.1:3000", &[])?;
    let said = attach.wait_line(&texts::warning(""))?;
    ensure!(
        texts::has_all(&said, &texts::attach::FORBIDDEN_BY_YAMA),
        "{said}"
    );
    let census = census::one_by_one(local(PORT), 120)?;
    ensure!(census.answered() == 120, "{census:?}");
    ensure!(census.served.contains_key(&late.pid()), "{census:?}");
    Ok(())
}
