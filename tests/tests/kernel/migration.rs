//! Connections that wait on a listener that closes move to the other workers.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use socket2::SockRef;
use steer_tests::{
    PORT,
    census::{self, Census},
    fixture::steered,
    isolate::isolate,
    patience::is_slow,
    process::eventually,
    steer::{Attach, status},
    texts,
    trial::{self, migrates_for},
    workers::{self, Worker, local},
};
use steer_user::{
    demo::client,
    kernel::migration::{self, Trial},
};

/// Connections of a round, a third of them for the worker that is killed.
const CONNECTIONS: usize = 60;

/// A worker that is stopped while connections queue up for it stays selected, however long this
/// machine takes for them.
const NEVER_EJECTED: &str = "--eject-after=0";

/// How often a worker is killed, and migration tried.
fn rounds() -> usize {
    // An emulated processor takes five minutes for twenty.
    if is_slow() { 5 } else { 20 }
}

fn patience() -> Duration {
    Duration::from_secs(5)
}

/// Stops a worker, has a third of the connections wait for it, and kills it. Tells what became of
/// all of them.
fn kill_one_with_a_queue(workers: &mut Vec<Worker>) -> anyhow::Result<Census> {
    let victim = workers.remove(0);
    let pid = Pid::from_raw(victim.pid() as i32).context("a pid isn't 0")?;
    kill_process(pid, Signal::STOP)?;
    let target = census::root(local(PORT));
    let clients = thread::spawn(move || client::fire(&target, CONNECTIONS));
    let waiting = || {
        let seen = status(PORT).ok()?;
        let worker = seen.live().find(|worker| worker.pid == victim.pid())?;
        worker.accept_queue
    };
    ensure!(
        eventually(patience(), || waiting() == Some(CONNECTIONS as u64 / 3)),
        "{:?} wait, not a third",
        waiting()
    );
    victim.kill()?;
    let shots = clients.join().expect("the thread doesn't panic")?;
    let mut census = Census::default();
    census.add(CONNECTIONS, &shots);
    census.check()?;
    Ok(census)
}

#[test]
#[ignore = "privileged"]
fn the_trial_finds_what_is_known_of_this_kernel() -> anyhow::Result<()> {
    isolate()?;
    // Where nothing is known of it, each trial must find what the first one did.
    let expected = match trial::expected()? {
        Some(known) => known,
        None => migration::trial()?,
    };
    for _ in 0..rounds() {
        let found = migration::trial()?;
        ensure!(found == expected, "{found:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn the_trial_foretells_what_migration_does() -> anyhow::Result<()> {
    let (mut workers, attach) = steered(3, "rr", &["--migrate", "on", NEVER_EJECTED])?;
    ensure!(status(PORT)?.groups[0].migrates);
    let census = kill_one_with_a_queue(&mut workers)?;
    let waited = CONNECTIONS / 3;
    let lost = match migration::trial()? {
        Trial::Sound => 0,
        // Its new worker has it, and isn't told.
        Trial::NotWoken => census.hung,
        Trial::Lost => census.reset,
    };
    ensure!(census.answered() + lost == CONNECTIONS, "{census:?}");
    ensure!(lost == 0 || lost == waited, "{census:?}");
    ensure!((lost == 0) == (migration::trial()? == Trial::Sound));
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn attach_migrates_only_where_it_is_sound() -> anyhow::Result<()> {
    let (mut workers, mut attach) = steered(3, "rr", &[NEVER_EJECTED])?;
    let sound = migration::trial()? == Trial::Sound;
    ensure!(status(PORT)?.groups[0].migrates == sound);
    let census = kill_one_with_a_queue(&mut workers)?;
    let lost = if sound { 0 } else { CONNECTIONS / 3 };
    // Reset, so that a client can try again; never left to hang.
    ensure!(
        census.reset == lost && census.answered() == CONNECTIONS - lost,
        "{census:?}"
    );
    let said = attach.said();
    let warned = said.lines().any(|line| {
        line.starts_with(&texts::attach::cant_migrate()) && line.contains(texts::attach::ARE_RESET)
    });
    ensure!(warned != sound, "{said}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn nothing_that_waits_for_a_killed_worker_is_lost() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("nothing_that_waits_for_a_killed_worker_is_lost")? {
        return Ok(());
    }
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    // What nobody asks of again after a round isn't found to be accepting again.
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    for round in 1..=rounds() {
        let census = kill_one_with_a_queue(&mut workers)?;
        ensure!(
            census.answered() == CONNECTIONS,
            "round {round}: {census:?}"
        );
        workers.push(Worker::start("127.0.0.1:3000", &[])?);
        ensure!(
            eventually(patience(), || status(PORT)
                .is_ok_and(|seen| seen.live().count() == 3)),
            "round {round}: {:?}",
            status(PORT)?
        );
    }
    let active = || {
        let seen = status(PORT).ok()?;
        let workers = seen.groups.first()?.workers.iter();
        Some(workers.map(|worker| worker.active).sum::<u64>())
    };
    ensure!(
        eventually(patience(), || active() == Some(0)),
        "{:?}",
        status(PORT)?
    );
    // Those of workers whose slots others have by now included.
    let migrated = status(PORT)?.groups[0].migrated;
    ensure!(
        migrated == (rounds() * CONNECTIONS / 3) as u64,
        "{migrated} migrated"
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn what_migrated_counts_for_the_worker_that_gets_it() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("what_migrated_counts_for_the_worker_that_gets_it")? {
        return Ok(());
    }
    let mut workers = workers::start(2, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let [victim, heir] = [workers[0].pid(), workers[1].pid()];
    for pid in [victim, heir] {
        kill_process(Pid::from_raw(pid as i32).context("a pid")?, Signal::STOP)?;
    }
    let target = census::root(local(PORT));
    let clients = thread::spawn(move || client::fire(&target, 20));
    let active = |pid: u32| {
        let seen = status(PORT).ok()?;
        let workers = seen.groups.first()?.workers.clone();
        let worker = workers.into_iter().find(|worker| worker.pid == pid)?;
        Some(worker.active)
    };
    ensure!(eventually(patience(), || active(victim) == Some(10)
        && active(heir) == Some(10)));
    workers.remove(0).kill()?;
    ensure!(
        eventually(patience(), || active(heir) == Some(20)),
        "{:?}",
        status(PORT)?
    );
    ensure!(active(victim).unwrap_or(0) == 0, "{:?}", status(PORT)?);
    ensure!(
        status(PORT)?.groups[0].migrated == 10,
        "{:?}",
        status(PORT)?
    );
    kill_process(Pid::from_raw(heir as i32).context("a pid")?, Signal::CONT)?;
    let mut census = Census::default();
    census.add(20, &clients.join().expect("the thread doesn't panic")?);
    census.exactly(&[heir], 20)?;
    ensure!(
        eventually(patience(), || active(heir) == Some(0)),
        "{:?}",
        status(PORT)?
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn what_was_reset_while_it_waited_counts_for_nobody() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("what_was_reset_while_it_waited_counts_for_nobody")? {
        return Ok(());
    }
    let mut workers = workers::start(2, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let victim = Pid::from_raw(workers[0].pid() as i32).context("a pid")?;
    kill_process(victim, Signal::STOP)?;
    let clients: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(local(PORT)))
        .collect::<Result<_, _>>()?;
    let active = || {
        let seen = status(PORT).ok()?;
        let workers = seen.groups.first()?.workers.iter();
        Some(workers.map(|worker| worker.active).sum::<u64>())
    };
    ensure!(eventually(patience(), || active() == Some(20)));
    for client in clients {
        // Closing sends a RST.
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    }
    ensure!(eventually(patience(), || active() == Some(0)));
    workers.remove(0).kill()?;
    ensure!(eventually(patience(), || status(PORT)
        .is_ok_and(|seen| seen.groups[0].migrated == 10)));
    thread::sleep(Duration::from_millis(100));
    ensure!(active() == Some(0), "{:?}", status(PORT)?);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn without_it_they_are_reset() -> anyhow::Result<()> {
    let (mut workers, attach) = steered(3, "rr", &["--migrate", "off", NEVER_EJECTED])?;
    ensure!(!status(PORT)?.groups[0].migrates);
    let census = kill_one_with_a_queue(&mut workers)?;
    ensure!(census.reset == CONNECTIONS / 3, "{census:?}");
    ensure!(
        census.answered() == CONNECTIONS - CONNECTIONS / 3,
        "{census:?}"
    );
    attach.detach()
}
