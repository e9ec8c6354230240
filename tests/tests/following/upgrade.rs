//! A steer takes the place of one whose maps have an earlier layout: by SIGHUP, and as the next one that is
//! started. `STEER_OLD_BIN` names the old one's file.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT,
    census::{self, Census, takes_turns},
    fixture::with_workers,
    isolate::leftovers,
    process::eventually,
    skip::{Skip, skip},
    steer::{Attach, Finished, binary, code, nothing_is_left, run, status, status_when, steer},
    texts,
    workers::{self, Worker, local},
};

/// The layout of the old one.
const OLD: u32 = 4;

/// The other port.
const OTHER: u16 = 3001;

/// Where the file is that steer was started from.
const FILE: &str = "/run/steer-copy";

const PATIENCE: Duration = Duration::from_secs(5);

/// The old version, where there is one.
fn old() -> Option<PathBuf> {
    std::env::var_os("STEER_OLD_BIN").map(PathBuf::from)
}

fn skipped(test: &str) -> anyhow::Result<()> {
    skip(test, &Skip::OldVersion)
}

/// Puts a copy of a version where steer is started from.
fn put(version: &Path) -> anyhow::Result<()> {
    fs::copy(version, "/run/steer-next")?;
    fs::set_permissions("/run/steer-next", fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename("/run/steer-next", FILE)?)
}

fn old_steer(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(old().context("the old version")?);
    command.args(args);
    let done = run(command)?;
    ensure!(done.code == Some(0), "{done:?}");
    Ok(())
}

fn start_old(port: u16, extra: &[&str]) -> anyhow::Result<Attach> {
    put(&old().context("the old version")?)?;
    Attach::start_file(Path::new(FILE), port, "rr", extra)
}

/// Upgrades a steer that was started from [`FILE`], in its process.
fn upgrade(attach: &mut Attach, port: u16) -> anyhow::Result<()> {
    put(&binary()?)?;
    attach.signal(Signal::HUP)?;
    attach.wait_line(&texts::attach::taking_the_place_of_earlier(port))?;
    attach.wait_line(texts::attach::STEERING).map(|_line| ())
}

/// Whether anything of the old version is pinned.
fn is_old_pinned() -> bool {
    fs::exists(format!("/sys/fs/bpf/steer/v{OLD}")).unwrap_or(true)
}

/// Whether all of the old version goes: its place was taken before.
fn old_goes() -> bool {
    eventually(PATIENCE, || !is_old_pinned())
}

/// Lets commands of the old version change what they can: three workers of weights 3, 1 (drained) and 1 (standby).
fn change(workers: &[Worker], policy: &str) -> anyhow::Result<()> {
    let pid = |index: usize| workers[index].pid().to_string();
    old_steer(&["policy", "--port", "3000", policy])?;
    old_steer(&["weight", "--port", "3000", "--pid", &pid(0), "3"])?;
    old_steer(&["drain", "--port", "3000", "--pid", &pid(1)])?;
    old_steer(&["weight", "--port", "3000", "--pid", &pid(2), "--standby"])
}

/// Checks that what [`change`] changed is in force.
fn is_changed(workers: &[Worker], policy: &str) -> anyhow::Result<()> {
    let seen = status(PORT)?;
    ensure!(seen.policy == policy, "{seen:?}");
    let pid = |index: usize| workers[index].pid();
    for (index, weight, state) in [(0, 3, "live"), (1, 1, "draining"), (2, 1, "standby")] {
        let mut all = seen.groups.iter().flat_map(|group| &group.workers);
        let worker = all.find(|worker| worker.pid == pid(index));
        let worker = worker.with_context(|| format!("worker {index} in {seen:?}"))?;
        ensure!(
            worker.weight == weight && worker.state == state,
            "{worker:?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_signal_upgrades_in_place() -> anyhow::Result<()> {
    if old().is_none() {
        return skipped("a_signal_upgrades_in_place");
    }
    let workers = with_workers(3)?;
    let mut attach = start_old(PORT, &["--eject-after", "7s"])?;
    let pid = attach.pid();
    change(&workers, "p2c")?;
    let done = AtomicBool::new(false);
    let census = thread::scope(|scope| {
        let load = scope.spawn(|| -> anyhow::Result<Census> {
            let mut all = Census::default();
            while !done.load(Ordering::Relaxed) {
                let round = census::one_by_one(local(PORT), 10)?;
                // The hash chooses for a moment, and nothing is lost.
                ensure!(round.answered() == 10, "{round:?}");
                all.sent += round.sent;
            }
            Ok(all)
        });
        let outcome = upgrade(&mut attach, PORT);
        done.store(true, Ordering::Relaxed);
        let census = load.join().expect("the thread doesn't panic");
        outcome.and(census)
    })?;
    ensure!(census.sent > 10);
    ensure!(attach.pid() == pid && old_goes());
    is_changed(&workers, "p2c")?;
    ensure!(status(PORT)?.loader_pid == Some(pid));
    // The new one follows, and reloads as ever.
    let _fourth = Worker::start("127.0.0.1:3000", &[])?;
    status_when(PORT, |seen| seen.groups[0].workers.len() == 4)?;
    attach.signal(Signal::HUP)?;
    attach.wait_line(texts::attach::STEERING)?;
    is_changed(&workers, "p2c")?;
    attach.detach()?;
    fs::remove_file(FILE)?;
    nothing_is_left(PORT, 4)
}

#[test]
#[ignore = "privileged"]
fn the_next_one_takes_the_place_of_one_that_was_killed_or_kept() -> anyhow::Result<()> {
    if old().is_none() {
        return skipped("the_next_one_takes_the_place_of_one_that_was_killed_or_kept");
    }
    let workers = with_workers(3)?;
    for (extra, signal) in [(&[][..], Signal::KILL), (&["--keep"][..], Signal::TERM)] {
        let mut former = start_old(PORT, extra)?;
        change(&workers, "rr")?;
        former.end(signal)?;
        let mut attach = Attach::spawn(PORT, "least", &[])?;
        attach.wait_line(&texts::attach::taking_the_place_of_earlier(PORT))?;
        attach.wait_line(texts::attach::STEERING)?;
        // It was asked for another policy.
        is_changed(&workers, "least")?;
        ensure!(old_goes());
        attach.detach()?;
        fs::remove_file(FILE)?;
        nothing_is_left(PORT, workers.len())?;
    }
    // One that was stopped has left nothing.
    let former = start_old(PORT, &[])?;
    former.detach()?;
    let mut attach = Attach::start(PORT, "rr", &[])?;
    ensure!(
        !attach.said().contains(texts::attach::TAKING_THE_PLACE),
        "{}",
        attach.said()
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn two_ports_of_which_one_is_upgraded() -> anyhow::Result<()> {
    if old().is_none() {
        return skipped("two_ports_of_which_one_is_upgraded");
    }
    let mut ones = with_workers(2)?;
    let mut others = workers::start(2, "127.0.0.1:3001")?;
    let mut one = start_old(PORT, &[])?;
    let mut other = start_old(OTHER, &[])?;
    upgrade(&mut one, PORT)?;
    ensure!(is_old_pinned(), "the other port's is gone");
    // Both follow their workers, and count.
    ones.push(Worker::start("127.0.0.1:3000", &[])?);
    others.push(Worker::start("127.0.0.1:3001", &[])?);
    for (port, workers) in [(PORT, &ones), (OTHER, &others)] {
        let turns = || takes_turns(local(port), workers.len()).is_ok_and(|turns| turns);
        ensure!(eventually(PATIENCE, turns), "port {port}");
    }
    let counted = |finished: Finished| finished.stdout.matches("\"active\":0").count();
    let mut command = Command::new(old().context("the old version")?);
    command.args(["status", "--json", "--port", "3001"]);
    ensure!(counted(run(command)?) == 3);
    upgrade(&mut other, OTHER)?;
    ensure!(old_goes());
    for (port, workers) in [(PORT, &ones), (OTHER, &others)] {
        ensure!(takes_turns(local(port), workers.len())?, "port {port}");
        ensure!(status(port)?.live().count() == workers.len());
    }
    one.detach()?;
    ensure!(takes_turns(local(OTHER), others.len())?);
    other.detach()?;
    fs::remove_file(FILE)?;
    ensure!(leftovers()?.is_empty(), "{:?}", leftovers()?);
    // The old one ends last.
    let mut one = start_old(PORT, &[])?;
    let other = start_old(OTHER, &[])?;
    upgrade(&mut one, PORT)?;
    other.detach()?;
    ensure!(old_goes());
    ensure!(takes_turns(local(PORT), ones.len())?);
    one.detach()?;
    fs::remove_file(FILE)?;
    nothing_is_left(PORT, ones.len())
}

/// Commands of the new version, while the old one steers.
#[test]
#[ignore = "privileged"]
fn what_the_old_one_steers_is_named_and_can_be_ended() -> anyhow::Result<()> {
    if old().is_none() {
        return skipped("what_the_old_one_steers_is_named_and_can_be_ended");
    }
    let workers = with_workers(3)?;
    let mut former = start_old(PORT, &[])?;
    let refused = steer(["attach", "--port", "3000"])?;
    ensure!(refused.code == Some(code::HELD), "{refused:?}");
    let named = texts::refused::held_by_earlier(former.pid());
    ensure!(refused.stderr.contains(&named), "{refused:?}");
    for command in ["status", "policy"] {
        let mut args = vec![command, "--port", "3000"];
        args.extend((command == "policy").then_some("rr"));
        let told = steer(args)?;
        ensure!(told.code == Some(code::HELD), "{command}: {told:?}");
        ensure!(told.stderr.contains(texts::refused::BY_EARLIER), "{told:?}");
    }
    let all = steer(["status"])?;
    ensure!(all.stderr.contains(texts::refused::BY_EARLIER), "{all:?}");
    ensure!(takes_turns(local(PORT), workers.len())?);

    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    ensure!(former.wait()?.success());
    fs::remove_file(FILE)?;
    nothing_is_left(PORT, workers.len())?;

    let mut former = start_old(PORT, &[])?;
    former.end(Signal::KILL)?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    fs::remove_file(FILE)?;
    nothing_is_left(PORT, workers.len())
}
