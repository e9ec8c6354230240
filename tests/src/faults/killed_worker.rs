//! SIGKILL of a worker while connections wait for it to accept them.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_user::{demo::client, kernel::migration, sys::sockdiag};

use super::Row;
use crate::{
    PORT, census,
    process::eventually,
    steer::{Attach, status_when},
    workers::{self, Worker, local},
};

/// How often.
const ROUNDS: usize = 20;

/// Connections of a round.
const CONNECTIONS: usize = 60;

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let migrates = migration::trial()? == migration::Trial::Sound;
    let mut rows = vec![
        rounds("steer, rr", Some(&[]))?,
        rounds("steer, rr, --migrate off", Some(&["--migrate", "off"]))?,
        rounds("hash", None)?,
    ];
    if migrates {
        rows[0].check_all_served();
    }
    Ok(rows)
}

fn rounds(by: &str, steer: Option<&[&str]>) -> anyhow::Result<Row> {
    let mut row = Row::new(by);
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    let attach = steer
        .map(|options| Attach::start(PORT, "rr", options))
        .transpose()?;
    let mut waited = 0;
    for _ in 0..ROUNDS {
        let victim = workers.remove(0);
        waited += kill_with_a_queue(victim, &mut row)?;
        workers.push(Worker::start("127.0.0.1:3000", &[])?);
        if attach.is_some() {
            status_when(PORT, |seen| seen.live().count() == 3)?;
        }
    }
    if let Some(attach) = attach {
        attach.detach()?;
    }
    let lost = row.census.reset;
    row.check(
        lost == 0 || lost == waited,
        format!("{waited} waited for the workers that were killed, {lost} of them lost"),
    );
    Ok(row)
}

/// Stops a worker, opens connections, and kills it. Tells how many waited for it.
fn kill_with_a_queue(victim: Worker, row: &mut Row) -> anyhow::Result<usize> {
    let pid = Pid::from_raw(victim.pid() as i32).context("a pid isn't 0")?;
    kill_process(pid, Signal::STOP)?;
    let target = census::root(local(PORT));
    let clients = thread::spawn(move || client::fire(&target, CONNECTIONS));
    // The others answer at once: what waits, and doesn't get less, waits for the stopped one.
    let mut waits = waiting()?;
    let settled = eventually(PATIENCE, || {
        thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut waits, waiting().unwrap_or_default());
        before == waits && waits > 0
    });
    ensure!(settled, "nothing waits for the stopped worker");
    victim.kill()?;
    let shots = clients.join().ok().context("the client panicked")??;
    row.add(CONNECTIONS, &shots);
    Ok(waits)
}

/// Connections that wait to be accepted, by any worker.
fn waiting() -> anyhow::Result<usize> {
    let listeners = sockdiag::listeners(PORT)?;
    Ok(listeners
        .iter()
        .map(|listener| listener.accept_queue as usize)
        .sum())
}
