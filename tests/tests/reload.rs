//! SIGHUP executes steer's file again, which may be a newer one: nothing is unsteered meanwhile.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_tests::{
    PORT,
    census::{self, Census},
    isolate::{isolate, leftovers},
    process::eventually,
    steer::{Attach, binary, status, steer},
    workers::{self, Worker, local},
};

const PATIENCE: Duration = Duration::from_secs(5);

fn hang_up(pid: u32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid as i32).context("a pid isn't 0")?;
    Ok(kill_process(pid, Signal::HUP)?)
}

/// What a process executes.
fn file_of(pid: u32) -> anyhow::Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/exe"))?
        .to_string_lossy()
        .into_owned())
}

#[test]
#[ignore = "privileged"]
fn a_newer_file_takes_over_without_a_gap() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let copy = Path::new("/run/steer-copy");
    fs::copy(binary()?, copy)?;
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755))?;
    let mut attach = Attach::start_file(copy, PORT, "least", &[])?;
    let pid = attach.pid();
    // What a command has changed meanwhile stays.
    let changed = steer(["policy", "--port", "3000", "rr"])?;
    ensure!(changed.code == Some(0), "{changed:?}");
    // An upgrade puts another file in the place of the first.
    let newer = Path::new("/run/steer-newer");
    fs::copy(binary()?, newer)?;
    fs::set_permissions(newer, fs::Permissions::from_mode(0o755))?;
    fs::rename(newer, copy)?;
    ensure!(file_of(pid)?.ends_with("(deleted)"));

    let pids = workers::pids(&workers);
    let done = AtomicBool::new(false);
    let census = thread::scope(|scope| {
        let load = scope.spawn(|| -> anyhow::Result<Census> {
            let mut all = Census::default();
            while !done.load(Ordering::Relaxed) {
                let round = census::one_by_one(local(PORT), 30)?;
                // Turns go on where they were.
                round.exactly(&pids, 10)?;
                all.sent += round.sent;
            }
            Ok(all)
        });
        let outcome = (|| {
            for _ in 0..5 {
                hang_up(pid)?;
                // A second one while it is being done changes nothing.
                hang_up(pid)?;
                attach.wait_line("steering ")?;
            }
            Ok(())
        })();
        thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        let census = load.join().expect("the thread doesn't panic");
        outcome.and(census)
    })?;
    ensure!(census.sent > 100);
    ensure!(file_of(pid)? == "/run/steer-copy");
    let seen = status(PORT)?;
    ensure!(
        seen.policy == "rr" && seen.groups[0].hashed == 0,
        "{seen:?}"
    );

    // The new one follows as the old one did.
    let _fourth = Worker::start("127.0.0.1:3000", &[])?;
    ensure!(eventually(PATIENCE, || status(PORT)
        .is_ok_and(|seen| seen.live().count() == 4)));
    let ended = attach.end(Signal::TERM)?;
    ensure!(ended.success(), "{ended}");
    fs::remove_file(copy)?;
    ensure!(leftovers()?.is_empty(), "{:?}", leftovers()?);
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_file_that_does_not_run_is_not_executed() -> anyhow::Result<()> {
    isolate()?;
    let _workers = workers::start(2, "127.0.0.1:3000")?;
    let copy = Path::new("/run/steer-copy");
    fs::copy(binary()?, copy)?;
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755))?;
    let mut attach = Attach::start_file(copy, PORT, "rr", &[])?;
    fs::remove_file(copy)?;
    hang_up(attach.pid())?;
    attach.wait_line("warning: not reloaded")?;
    ensure!(census::takes_turns(local(PORT), 2)?);
    ensure!(status(PORT)?.loader_pid == Some(attach.pid()));
    attach.detach()
}
