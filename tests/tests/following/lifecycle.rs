//! From attach to detach, with workers that come and go in between.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT, census,
    fixture::{steered, with_workers},
    isolate::{self, isolate},
    process::eventually,
    steer::{Attach, code, nothing_is_left, status, status_when, steer},
    texts,
    workers::{self, Worker, are_live, local},
};

/// What a loader may keep, in KiB: eight megabytes.
const MOST_KIB: u64 = 8 << 10;

#[test]
#[ignore = "privileged"]
fn sigint_and_sigterm_detach_and_leave_nothing() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    for (signal, policy) in [(Signal::INT, "rr"), (Signal::TERM, "least")] {
        let mut attach = Attach::start(PORT, policy, &[])?;
        let asked = census::one_by_one(local(PORT), 60)?;
        ensure!(asked.answered() == 60, "{policy}: {asked:?}");
        let seen = status(PORT)?;
        let group = &seen.groups[0];
        ensure!(group.selected == 60 && group.hashed == 0, "{seen:?}");
        ensure!(seen.loader_pid == Some(attach.pid()), "{seen:?}");
        ensure!(seen.policy == policy && seen.unsteered() == 0, "{seen:?}");
        are_live(&workers, &seen)?;

        let ended = attach.end(signal)?;
        ensure!(ended.code() == Some(0), "{ended}: {}", attach.said());
        nothing_is_left(PORT, 3)?;
    }
    Ok(())
}

/// What the kernel's types take is given back after loading, and again after a later group's.
#[test]
#[ignore = "privileged"]
fn a_loader_keeps_little_memory() -> anyhow::Result<()> {
    let (_workers, attach) = steered(2, "rr", &[])?;
    let anonymous = || -> anyhow::Result<u64> {
        let maps = fs::read_to_string(format!("/proc/{}/smaps_rollup", attach.pid()))?;
        let line = maps
            .lines()
            .find_map(|line| line.strip_prefix("Anonymous:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(size.context("no size")?.trim().parse()?)
    };
    for groups in 1.. {
        let small = eventually(Duration::from_secs(2), || {
            anonymous().is_ok_and(|size| size < MOST_KIB)
        });
        ensure!(small, "{} KiB with {groups} groups", anonymous()?);
        if groups == 2 {
            break;
        }
        let _others = workers::start(1, "127.0.0.2:3000")?;
        status_when(PORT, |seen| seen.groups.len() == 2)?;
    }
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn steer_mounts_a_bpffs_where_there_is_none() -> anyhow::Result<()> {
    isolate::isolate_without_bpffs()?;
    let _workers = workers::start(3, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &[])?;
    ensure!(census::takes_turns(local(PORT), 3)?);
    attach.detach()?;
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn kept_state_steers_on_and_is_detached_later() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    Attach::start(PORT, "rr", &["--keep"])?.detach()?;
    ensure!(census::takes_turns(local(PORT), 3)?);
    let seen = status(PORT)?;
    ensure!(seen.loader_pid.is_none(), "{seen:?}");
    are_live(&workers, &seen)?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn attach_waits_for_the_first_worker() -> anyhow::Result<()> {
    isolate()?;
    let mut attach = Attach::spawn(PORT, "rr", &[])?;
    attach.wait_line(&texts::attach::waiting_for_listener(PORT))?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    attach.wait_line(&texts::attach::steering("127.0.0.1:3000"))?;
    evenly(&workers)?;
    attach.detach()?;
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn a_wait_for_the_first_worker_ends_without_a_trace() -> anyhow::Result<()> {
    isolate()?;
    let mut attach = Attach::spawn(PORT, "rr", &[])?;
    attach.wait_line(&texts::attach::waiting_for_listener(PORT))?;
    attach.detach()?;
    let left = isolate::leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn workers_join_leave_and_die() -> anyhow::Result<()> {
    let (mut workers, attach) = steered(3, "rr", &[])?;
    evenly(&workers)?;

    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    evenly(&workers)?;
    workers.remove(0).stop()?;
    evenly(&workers)?;
    workers.remove(1).kill()?;
    evenly(&workers)?;
    for _ in 0..4 {
        workers.push(Worker::start("127.0.0.1:3000", &[])?);
    }
    evenly(&workers)?;
    attach.detach()?;
    nothing_is_left(PORT, 6)
}

#[test]
#[ignore = "privileged"]
fn all_workers_restart_at_once() -> anyhow::Result<()> {
    let (mut workers, attach) = steered(3, "rr", &[])?;
    evenly(&workers)?;
    for gracefully in [true, false] {
        for worker in workers.drain(..) {
            if gracefully {
                worker.stop()?;
            } else {
                worker.kill()?;
            }
        }
        let census = census::one_by_one(local(PORT), 3)?;
        ensure!(census.refused == 3, "{census:?}");
        workers = workers::start(3, "127.0.0.1:3000")?;
        evenly(&workers)?;
    }
    attach.detach()?;
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn a_second_attach_is_refused() -> anyhow::Result<()> {
    let (workers, attach) = steered(3, "rr", &[])?;
    let second = steer(["attach", "--port", "3000", "--policy", "least"])?;
    ensure!(second.code == Some(code::HELD), "{second:?}");
    let words = texts::refused::held(PORT, attach.pid());
    ensure!(texts::has_all(&second.stderr, &words), "{second:?}");
    // The first one goes on as if nothing had happened.
    evenly(&workers)?;
    ensure!(status(PORT)?.policy == "rr");
    attach.detach()?;
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn two_ports_are_independent() -> anyhow::Result<()> {
    let _first = with_workers(3)?;
    let _second = workers::start(2, "127.0.0.1:3001")?;
    let one = Attach::start(3000, "rr", &[])?;
    let other = Attach::start(3001, "rr", &[])?;
    ensure!(census::takes_turns(local(3000), 3)?);
    ensure!(census::takes_turns(local(3001), 2)?);
    one.detach()?;
    ensure!(census::takes_turns(local(3001), 2)?);
    ensure!(!census::takes_turns(local(3000), 3)?);
    other.detach()?;
    nothing_is_left(PORT, 3)
}

/// Exactly the same number for each worker, once steer has followed the change of the set: how soon it
/// does is what `churn` measures.
fn evenly(workers: &[Worker]) -> anyhow::Result<()> {
    status_when(PORT, |seen| are_live(workers, seen).is_ok())?;
    let census = census::one_by_one(local(PORT), 50 * workers.len())?;
    census.exactly(&workers::pids(workers), 50)
}
