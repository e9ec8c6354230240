//! What steer is for: connections that come at the same time go to different workers.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use steer_tests::{
    PORT,
    census::{self, Census, spread_rounds},
    isolate::isolate,
    patience::policies_in_a_burst,
    steer::Attach,
    workers::{self, local},
};
use steer_user::demo::client;

/// Rounds of each kind.
const ROUNDS: usize = 50;

/// How long each request blocks its worker's event loop.
const BLOCK: Duration = Duration::from_millis(10);

#[test]
#[ignore = "privileged"]
fn three_at_once_hit_three_workers_in_every_round() -> anyhow::Result<()> {
    isolate()?;
    let _workers = workers::start(3, "127.0.0.1:3000")?;
    let hash = spread_rounds(local(PORT), ROUNDS, 3, BLOCK)?;
    // 11 are expected.
    ensure!(hash < 30, "{hash} of {ROUNDS} under the hash");
    for policy in ["rr", "least"] {
        let attach = Attach::start(PORT, policy, &[])?;
        let spread = spread_rounds(local(PORT), ROUNDS, 3, BLOCK)?;
        ensure!(spread == ROUNDS, "{spread} of {ROUNDS} under {policy}");
        attach.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn six_at_once_give_each_of_three_workers_two() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let pids = workers::pids(&workers);
    let target = client::Target {
        path: format!("/block?ms={}", BLOCK.as_millis()),
        ..census::root(local(PORT))
    };
    for policy in policies_in_a_burst() {
        let attach = Attach::start(PORT, policy, &[])?;
        for _ in 0..ROUNDS {
            let mut round = Census::default();
            round.add(6, &client::fire(&target, 6)?);
            round.exactly(&pids, 2)?;
        }
        attach.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn least_leaves_a_busy_worker_alone() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "least", &[])?;
    let slow = client::Target {
        path: "/block?ms=1500".to_owned(),
        ..census::root(local(PORT))
    };
    let busy = std::thread::spawn(move || client::fire(&slow, 1));
    std::thread::sleep(Duration::from_millis(200));
    let quick = census::one_by_one(local(PORT), 100)?;
    let mut all = Census::default();
    all.add(1, &busy.join().expect("the thread doesn't panic")?);
    let busy: BTreeSet<_> = all.served.into_keys().collect();
    ensure!(quick.answered() == 100 && busy.len() == 1, "{quick:?}");
    let others: BTreeSet<_> = quick.served.keys().copied().collect();
    ensure!(
        others.is_disjoint(&busy),
        "{quick:?} although {busy:?} was busy"
    );
    ensure!(others.len() + 1 == workers.len(), "{quick:?}");
    attach.detach()
}
