//! `steer policy`, `weight` and `drain`: the kernel carries out what they change at once, by every policy.

use std::time::Duration;

use anyhow::ensure;
use steer_tests::{
    PORT, census,
    fixture::with_workers,
    process::eventually,
    steer::{Attach, Finished, status, steer},
    texts,
    workers::{self, local},
};

fn run(args: &[&str]) -> anyhow::Result<Finished> {
    steer(args.iter().copied())
}

fn done(args: &[&str]) -> anyhow::Result<()> {
    let finished = run(args)?;
    ensure!(finished.code == Some(0), "{args:?}: {finished:?}");
    Ok(())
}

fn served(count: usize, pid: u32) -> anyhow::Result<usize> {
    let census = census::one_by_one(local(PORT), count)?;
    census.check()?;
    ensure!(census.answered() == count, "{census:?}");
    Ok(census.served.get(&pid).copied().unwrap_or_default())
}

#[test]
#[ignore = "privileged"]
fn the_policy_changes_in_place() -> anyhow::Result<()> {
    let workers = with_workers(4)?;
    let pids = workers::pids(&workers);
    let attach = Attach::start(PORT, "rr", &[])?;
    for policy in ["least", "p2c", "hash", "sticky", "rr"] {
        done(&["policy", "--port", "3000", policy])?;
        ensure!(status(PORT)?.policy == policy);
        let census = census::one_by_one(local(PORT), 400)?;
        ensure!(census.answered() == 400, "{policy}: {census:?}");
        let most = census.served.values().max().copied().unwrap_or_default();
        match policy {
            // One client address.
            "sticky" => ensure!(census.served.len() == 1, "{policy}: {census:?}"),
            "p2c" | "hash" => ensure!(
                census.served.len() == 4 && most < 160,
                "{policy}: {census:?}"
            ),
            // Ties rotate; but a worker may not have waited again when the next one is asked for.
            "least" => ensure!(census.served.len() == 4, "{policy}: {census:?}"),
            _ => census.exactly(&pids, 100)?,
        }
    }
    let seen = status(PORT)?;
    let group = &seen.groups[0];
    ensure!(group.selected == 2000 && group.hashed == 0, "{seen:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn weights_drain_and_standby() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    let pid = workers[0].pid();
    let name = pid.to_string();
    let attach = Attach::start(PORT, "rr", &[])?;
    // An idle worker is preferred by least whatever its weight, which a client that asks one at a
    // time finds most of the time: nothing to count.
    for (policy, least, most) in [("rr", 300, 300), ("least", 1, 600), ("hash", 220, 380)] {
        done(&["policy", "--port", "3000", policy])?;
        done(&["weight", "--port", "3000", "--pid", &name, "2"])?;
        let count = served(600, pid)?;
        ensure!((least..=most).contains(&count), "{policy}: {count} of 600");
        done(&["drain", "--port", "3000", "--pid", &name])?;
        ensure!(served(100, pid)? == 0, "{policy}: selected while drained");
        done(&["undrain", "--port", "3000", "--pid", &name])?;
        done(&["weight", "--port", "3000", "--pid", &name, "1", "--standby"])?;
        ensure!(served(100, pid)? == 0, "{policy}: selected on standby");
        for other in &workers[1..] {
            done(&["drain", "--port", "3000", "--pid", &other.pid().to_string()])?;
        }
        ensure!(served(100, pid)? == 100, "{policy}: standby unused");
        // With nobody else left, draining workers are used.
        done(&["drain", "--port", "3000", "--pid", &name])?;
        ensure!(
            served(90, pid)? < 90,
            "{policy}: one of three drained serves all"
        );
        for worker in &workers {
            let name = worker.pid().to_string();
            done(&["undrain", "--port", "3000", "--pid", &name])?;
        }
        done(&["weight", "--port", "3000", "--pid", &name, "--no-standby"])?;
    }
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_change_survives_a_join_and_names_its_mistakes() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let name = workers[0].pid().to_string();
    let attach = Attach::start(PORT, "rr", &[])?;
    done(&["weight", "--port", "3000", "--pid", &name, "4"])?;
    done(&["policy", "--port", "3000", "least"])?;
    let third = workers::start(1, "127.0.0.1:3000")?;
    ensure!(
        eventually(Duration::from_secs(2), || {
            status(PORT).is_ok_and(|seen| seen.live().count() == 3)
        }),
        "the third worker didn't join"
    );
    let seen = status(PORT)?;
    ensure!(seen.policy == "least", "{seen:?}");
    done(&["policy", "--port", "3000", "rr"])?;
    ensure!(served(600, workers[0].pid())? == 400, "the weight is gone");
    for (args, code, what) in [
        (
            &["weight", "--port", "3000", "--pid", "1", "2"][..],
            4,
            texts::refused::no_process(1),
        ),
        (
            &["drain", "--port", "3000", "--slot", "77"],
            4,
            texts::refused::no_slot(77),
        ),
        (
            &["weight", "--port", "3000", "--pid", &name, "65"],
            2,
            "65".to_owned(),
        ),
        (
            &["weight", "--port", "3000", "--pid", &name, "0"],
            2,
            "0".to_owned(),
        ),
        (
            &["drain", "--port", "3000"],
            2,
            texts::refused::PID_OPTION.to_owned(),
        ),
        (&["policy", "--port", "3000", "best"], 2, "best".to_owned()),
        (
            &["policy", "--port", "3001", "rr"],
            4,
            texts::refused::not_steered(3001),
        ),
    ] {
        let finished = run(args)?;
        ensure!(finished.code == Some(code), "{args:?}: {finished:?}");
        ensure!(finished.stderr.contains(&what), "{args:?}: {finished:?}");
    }
    drop(third);
    attach.detach()
}
