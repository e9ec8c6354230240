//! Several steers on one host at one moment: what they share belongs to all of them, and what is one's own to it.

use std::{fs, thread, time::Duration};

use anyhow::ensure;
use rustix::process::Signal;
use steer_tests::{
    PORT,
    census::{one_by_one, takes_turns},
    fixture::{steered, with_workers},
    isolate::{isolate, leftovers},
    pins::pinned,
    process::eventually,
    steer::{Attach, code, nothing_is_left, status, status_when, steer},
    texts,
    workers::{self, Worker, local},
};

const PORTS: [u16; 4] = [3010, 3011, 3012, 3013];

const WORKERS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(10);

fn all_workers() -> anyhow::Result<Vec<(u16, Vec<Worker>)>> {
    PORTS
        .iter()
        .map(|port| {
            Ok((
                *port,
                workers::start(WORKERS, &format!("127.0.0.1:{port}"))?,
            ))
        })
        .collect()
}

/// Starts one for each port before it waits for any.
fn attach_all() -> anyhow::Result<Vec<Attach>> {
    let mut all = Vec::new();
    for port in PORTS {
        all.push(Attach::spawn(port, "rr", &[])?);
    }
    for attach in &mut all {
        attach.wait_line(texts::attach::STEERING)?;
    }
    Ok(all)
}

/// Ends all before it waits for any.
fn detach_all(all: Vec<Attach>) -> anyhow::Result<()> {
    for attach in &all {
        attach.signal(Signal::TERM)?;
    }
    for mut attach in all {
        let ended = attach.wait()?;
        ensure!(ended.success(), "{ended}: {}", attach.said());
    }
    ensure!(leftovers()?.is_empty(), "left behind: {:?}", leftovers()?);
    Ok(())
}

/// With one number for two groups, one of them would never be counted, and its workers be taken for hung.
#[test]
#[ignore = "privileged"]
fn each_counts_its_own_connections() -> anyhow::Result<()> {
    const EACH: usize = 12;
    isolate()?;
    let workers = all_workers()?;
    for _ in 0..5 {
        let all = attach_all()?;
        for (port, workers) in &workers {
            one_by_one(local(*port), WORKERS * EACH)?.exactly(&workers::pids(workers), EACH)?;
        }
        for (port, _) in &workers {
            let counted = |worker: &steer_tests::status::Worker| {
                worker.connections == EACH as u64 && worker.active == 0 && worker.state == "live"
            };
            status_when(*port, |seen| {
                seen.live().filter(|worker| counted(worker)).count() == WORKERS
            })?;
        }
        detach_all(all)?;
    }
    for (port, workers) in &workers {
        nothing_is_left(*port, workers.len())?;
    }
    Ok(())
}

/// Reloads of all but one, while that one is killed and the next takes its place, and one more is refused.
#[test]
#[ignore = "privileged"]
fn reloads_and_starts_at_once_end_nobody() -> anyhow::Result<()> {
    isolate()?;
    let workers = all_workers()?;
    let mut all = attach_all()?;
    for round in 0..6 {
        let victim = round % PORTS.len();
        for (index, attach) in all.iter_mut().enumerate() {
            if index == victim {
                attach.end(Signal::KILL)?;
            } else {
                attach.signal(Signal::HUP)?;
            }
        }
        all[victim] = Attach::spawn(PORTS[victim], "rr", &[])?;
        let other = PORTS[(victim + 1) % PORTS.len()];
        let refused = steer(["attach", "--port", &other.to_string()])?;
        ensure!(refused.code == Some(code::HELD), "{refused:?}");
        for attach in &mut all {
            attach.wait_line(texts::attach::STEERING)?;
        }
        for (port, workers) in &workers {
            one_by_one(local(*port), 2 * WORKERS)?.exactly(&workers::pids(workers), 2)?;
        }
    }
    detach_all(all)
}

/// The lock goes with the pins. Then another one can follow the port, and the first one's end must not concern it.
#[test]
#[ignore = "privileged"]
fn who_has_lost_its_pins_removes_nobody_elses() -> anyhow::Result<()> {
    let (mut workers, first) = steered(WORKERS, "rr", &[])?;
    fs::remove_dir_all(pinned(PORT)?)?;
    let second = Attach::start(PORT, "rr", &[])?;
    // The first one notices, and doesn't fight for it.
    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    let follows = |count| {
        eventually(PATIENCE, || {
            takes_turns(local(PORT), count).is_ok_and(|turns| turns)
        })
    };
    ensure!(follows(workers.len()), "the second one doesn't follow");
    first.detach()?;
    ensure!(takes_turns(local(PORT), workers.len())?, "not steered");
    ensure!(status(PORT)?.loader_pid == Some(second.pid()));
    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    ensure!(follows(workers.len()), "the second one follows no more");
    second.detach()?;
    nothing_is_left(PORT, workers.len())
}

/// A killed steer had two addresses; the next one is asked for one of them, and nobody would follow the other.
#[test]
#[ignore = "privileged"]
fn what_bind_leaves_out_is_handed_back() -> anyhow::Result<()> {
    let workers = with_workers(WORKERS)?;
    let _others = workers::start(2, "127.0.0.7:3000")?;
    let other = "127.0.0.7:3000".parse()?;
    let mut killed = Attach::start(PORT, "rr", &[])?;
    ensure!(eventually(PATIENCE, || status(PORT)
        .is_ok_and(|seen| seen.live().count() == WORKERS + 2)));
    ensure!(takes_turns(other, 2)?, "not steered");
    killed.end(Signal::KILL)?;

    let mut attach = Attach::spawn(PORT, "rr", &["--bind", "127.0.0.1"])?;
    attach.wait_line(&texts::attach::handed_back("127.0.0.7:3000"))?;
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered");
    ensure!(!takes_turns(other, 2)?, "steered by nobody");
    let seen = status(PORT)?;
    ensure!(seen.groups.len() == 1, "{seen:?}");
    attach.detach()?;
    nothing_is_left(PORT, workers.len())
}

/// Whatever a worker's end leaves half done in /proc, the port is detached.
#[test]
#[ignore = "privileged"]
fn stopped_while_all_workers_crash() -> anyhow::Result<()> {
    isolate()?;
    for round in 0..20_u64 {
        let workers = workers::start(4, "127.0.0.1:3000")?;
        let mut attach = Attach::start(PORT, "rr", &[])?;
        let ended = thread::scope(|scope| {
            let crash = scope.spawn(|| -> anyhow::Result<()> {
                workers
                    .into_iter()
                    .try_for_each(|worker| worker.kill().map(|_| ()))
            });
            thread::sleep(Duration::from_micros(300 * round));
            let ended = attach.end(Signal::INT);
            crash.join().expect("the thread doesn't panic")?;
            ended
        })?;
        ensure!(ended.success(), "round {round}: {ended}: {}", attach.said());
        let left = leftovers()?;
        ensure!(left.is_empty(), "round {round}: left behind: {left:?}");
    }
    Ok(())
}
