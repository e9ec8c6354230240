//! A worker that has stopped accepting is not selected until it accepts again, by any policy.

use std::{thread, time::Duration};

use anyhow::ensure;
use rustix::process::{Pid, Signal, kill_process};
use steer_tests::{
    PORT, census,
    isolate::isolate,
    process::eventually,
    status::Worker,
    steer::{Attach, status},
    workers::{self, local},
};
use steer_user::demo::client;

const EJECT_AFTER: &str = "300ms";

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid as i32).expect("a pid isn't 0");
    Ok(kill_process(pid, signal)?)
}

fn worker(pid: u32) -> anyhow::Result<Worker> {
    let seen = status(PORT)?;
    let mut workers = seen.groups.into_iter().flat_map(|group| group.workers);
    workers
        .find(|worker| worker.pid == pid)
        .ok_or_else(|| anyhow::anyhow!("{pid} is not in the status"))
}

/// Connections that nobody waits for, a few at a time.
fn load(batches: u32) {
    for _ in 0..batches {
        thread::spawn(|| client::fire(&census::root(local(PORT)), 4));
        thread::sleep(Duration::from_millis(25));
    }
}

#[test]
#[ignore = "privileged"]
fn a_stopped_worker_is_ejected_by_every_policy() -> anyhow::Result<()> {
    for policy in ["rr", "p2c", "hash"] {
        isolate()?;
        let workers = workers::start(4, "127.0.0.1:3000")?;
        let attach = Attach::start(PORT, policy, &["--eject-after", EJECT_AFTER])?;
        let stopped = workers[1].pid();
        signal(stopped, Signal::STOP)?;
        // 40 batches are a second; eject-after plus one are 1.3.
        let ejected = (0..4).any(|_| {
            load(13);
            worker(stopped).is_ok_and(|worker| worker.state == "ejected")
        });
        ensure!(ejected, "{policy}: {:?}", status(PORT)?);
        let before = worker(stopped)?.selected;
        let census = census::one_by_one(local(PORT), 200)?;
        ensure!(census.answered() == 200, "{policy}: {census:?}");
        ensure!(
            worker(stopped)?.selected == before,
            "{policy}: selected while ejected"
        );
        signal(stopped, Signal::CONT)?;
        ensure!(
            eventually(Duration::from_secs(3), || {
                census::one_by_one(local(PORT), 8).is_ok()
                    && worker(stopped)
                        .is_ok_and(|worker| worker.state == "live" && worker.selected > before)
            }),
            "{policy}: not back: {:?}",
            status(PORT)?
        );
        attach.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn never_more_than_half() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(4, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", EJECT_AFTER])?;
    let pids = workers::pids(&workers);
    for pid in &pids {
        signal(*pid, Signal::STOP)?;
    }
    load(60);
    let seen = status(PORT)?;
    let states: Vec<_> = seen.groups[0]
        .workers
        .iter()
        .map(|worker| worker.state.as_str())
        .collect();
    let ejected = states.iter().filter(|state| **state == "ejected").count();
    ensure!(ejected == 2, "{states:?}");
    // The others are still used, stopped or not.
    let before: u64 = seen.groups[0]
        .workers
        .iter()
        .map(|worker| worker.selected)
        .sum();
    load(4);
    let seen = status(PORT)?;
    let after: u64 = seen.groups[0]
        .workers
        .iter()
        .map(|worker| worker.selected)
        .sum();
    ensure!(after > before && seen.groups[0].hashed == 0, "{seen:?}");
    for pid in &pids {
        signal(*pid, Signal::CONT)?;
    }
    ensure!(
        eventually(Duration::from_secs(3), || {
            census::one_by_one(local(PORT), 16).is_ok()
                && status(PORT).is_ok_and(|seen| {
                    seen.groups[0]
                        .workers
                        .iter()
                        .all(|worker| worker.state == "live")
                })
        }),
        "{:?}",
        status(PORT)?
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn zero_ejects_nobody() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let stopped = workers[0].pid();
    signal(stopped, Signal::STOP)?;
    load(60);
    ensure!(worker(stopped)?.state == "live");
    signal(stopped, Signal::CONT)?;
    attach.detach()
}
