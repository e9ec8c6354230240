//! `steer evict` moves what waits for a hung worker to the others, and refuses where that would be lost. What
//! it takes from a listener that is handed over is in `serving`.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_tests::{
    PORT,
    census::{self, Census},
    isolate::isolate,
    process::eventually,
    steer::{Attach, status, steer},
    texts,
    trial::migrates_for,
    workers::{self, local},
};
use steer_user::demo::client;

/// Connections, a third of them for the worker that is evicted.
const CONNECTIONS: usize = 60;

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "privileged"]
fn an_evicted_worker_loses_nothing_that_waits() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("an_evicted_worker_loses_nothing_that_waits")? {
        return Ok(());
    }
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let hung = workers[1].pid();
    let name = hung.to_string();
    kill_process(Pid::from_raw(hung as i32).context("a pid")?, Signal::STOP)?;
    let target = census::root(local(PORT));
    let clients = thread::spawn(move || client::fire(&target, CONNECTIONS));
    let waiting = || {
        let seen = status(PORT).ok()?;
        seen.live().find(|worker| worker.pid == hung)?.accept_queue
    };
    ensure!(eventually(PATIENCE, || waiting() == Some(CONNECTIONS as u64 / 3)));

    let evict = ["evict", "--port", "3000", "--pid", &name];
    let unasked = steer(evict)?;
    ensure!(
        unasked.code == Some(2) && unasked.stderr.contains(texts::refused::EVICT_UNASKED),
        "{unasked:?}"
    );
    ensure!(waiting() == Some(CONNECTIONS as u64 / 3));
    let evicted = steer([&evict[..], &["--yes"]].concat())?;
    ensure!(evicted.code == Some(0), "{evicted:?}");
    let mut census = Census::default();
    census.add(
        CONNECTIONS,
        &clients.join().expect("the thread doesn't panic")?,
    );
    ensure!(census.answered() == CONNECTIONS, "{census:?}");
    ensure!(!census.served.contains_key(&hung), "{census:?}");
    ensure!(eventually(PATIENCE, || status(PORT)
        .is_ok_and(|seen| seen.live().count() == 2)));

    let again = steer([&evict[..], &["--yes"]].concat())?;
    ensure!(again.code == Some(4), "{again:?}");
    kill_process(Pid::from_raw(hung as i32).context("a pid")?, Signal::CONT)?;
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn evict_refuses_what_would_lose_connections() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("evict_refuses_what_would_lose_connections")? {
        return Ok(());
    }
    let workers = workers::start(1, "127.0.0.1:3000")?;
    let name = workers[0].pid().to_string();
    let evict = ["evict", "--port", "3000", "--pid", &name, "--yes"];
    let attach = Attach::start(PORT, "rr", &[])?;
    let refused = steer(evict)?;
    ensure!(
        refused.code == Some(5) && refused.stderr.contains(texts::refused::EVICT_NOBODY),
        "{refused:?}"
    );
    attach.detach()?;
    let attach = Attach::start(PORT, "rr", &["--migrate", "off"])?;
    let _more = workers::start(1, "127.0.0.1:3000")?;
    let refused = steer(evict)?;
    ensure!(
        refused.code == Some(5) && refused.stderr.contains(texts::refused::EVICT_UNMOVED),
        "{refused:?}"
    );
    ensure!(census::one_by_one(local(PORT), 10)?.answered() == 10);
    attach.detach()
}
