//! What steer is for: connections that come at the same time go to different workers.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use steer_tests::{
    PORT,
    bursts::Bursts,
    census::{self, Census},
    fixture::{steered, with_workers},
    isolate::isolate,
    net,
    patience::slowed,
    steer::{Attach, status_when},
    workers::{self, local},
};
use steer_user::demo::client;

/// Rounds of each kind.
const ROUNDS: usize = 50;

/// How long each request blocks its worker's event loop.
const BLOCK: Duration = Duration::from_millis(10);

#[test]
#[ignore = "privileged"]
fn as_many_at_once_as_workers_or_twice_as_many_are_spread_evenly() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    let pids = workers::pids(&workers);
    for each in [1, 2] {
        let hash = Bursts::run(PORT, &pids, each, ROUNDS, BLOCK)?;
        // 11 are expected, or 6 of six at once.
        ensure!(hash.even < 30, "no difference to see: {hash}");
        for policy in ["rr", "least"] {
            let attach = Attach::start(PORT, policy, &["--eject-after", "0"])?;
            Bursts::run(PORT, &pids, each, ROUNDS, BLOCK)?.check(policy, &hash)?;
            attach.detach()?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn least_leaves_a_busy_worker_alone() -> anyhow::Result<()> {
    let (workers, attach) = steered(3, "least", &[])?;
    let slow = client::Target {
        path: format!("/block?ms={}", slowed(3000)),
        ..census::root(local(PORT))
    };
    let busy = std::thread::spawn(move || client::fire(&slow, 1));
    status_when(PORT, |seen| seen.live().any(|worker| worker.active == 1))?;
    // While the worker is busy for certain, however long one of these takes.
    let mut others = BTreeSet::new();
    let mut asked = 0;
    while asked < 100 {
        let one = census::one_by_one(local(PORT), 1)?;
        ensure!(one.answered() == 1, "{one:?}");
        if busy.is_finished() {
            break;
        }
        others.extend(one.served.into_keys());
        asked += 1;
    }
    ensure!(asked > 10, "only {asked} while the worker was busy");
    let mut all = Census::default();
    all.add(1, &busy.join().expect("the thread doesn't panic")?);
    let busy: BTreeSet<_> = all.served.into_keys().collect();
    ensure!(
        busy.len() == 1 && others.is_disjoint(&busy),
        "{others:?} although {busy:?} was busy"
    );
    ensure!(others.len() + 1 == workers.len(), "{others:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn bursts_are_even() -> anyhow::Result<()> {
    const ROUNDS: usize = 60;
    const BLOCK: Duration = Duration::from_millis(10);
    isolate()?;
    net::sysctl("core/somaxconn", "4096")?;
    let workers = workers::start(8, "127.0.0.1:3000")?;
    let pids = workers::pids(&workers);
    let hash = Bursts::run(PORT, &pids, 8, ROUNDS, BLOCK)?;
    for policy in ["rr", "least"] {
        // A worker that gets no processor for a second isn't what this is about.
        let attach = Attach::start(PORT, policy, &["--eject-after", "0"])?;
        Bursts::run(PORT, &pids, 8, ROUNDS, BLOCK)?.check(policy, &hash)?;
        attach.detach()?;
    }
    Ok(())
}
