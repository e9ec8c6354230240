//! `steer drain --wait` ends with the last connection that its worker had, and not before.

use std::{
    io,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT, census,
    connections::{accept, active, agree, connect},
    fixture::with_workers,
    isolate::isolate,
    patience::slowed,
    process::eventually,
    server::Server,
    status::Attachment,
    steer::{Attach, binary, status, status_when, steer},
    trial::migrates_for,
    workers::local,
};
use steer_user::demo::client;

/// How long a command may take to end once it can.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a command that must not end is watched.
const WATCHED: Duration = Duration::from_millis(700);

/// `steer drain --wait` of a slot, in the background.
fn drain(slot: u32) -> anyhow::Result<Child> {
    let mut command = Command::new(binary()?);
    command.args(["drain", "--port", &PORT.to_string(), "--wait"]);
    command.args(["--slot", &slot.to_string()]);
    command.stdin(Stdio::null());
    Ok(command.spawn()?)
}

/// Whether it goes on for a while.
fn waits(drain: &mut Child) -> io::Result<bool> {
    thread::sleep(WATCHED);
    Ok(drain.try_wait()?.is_none())
}

/// Whether it ends well.
fn ends(drain: &mut Child) -> bool {
    let ended = eventually(PATIENCE, || matches!(drain.try_wait(), Ok(Some(_))));
    ended && drain.wait().is_ok_and(|status| status.success())
}

#[test]
#[ignore = "privileged"]
fn drain_waits_for_the_last_connection() -> anyhow::Result<()> {
    let workers = with_workers(1)?;
    let name = workers[0].pid().to_string();
    let attach = Attach::start(PORT, "least", &[])?;
    let slow = client::Target {
        path: format!("/block?ms={}", slowed(4000)),
        ..census::root(local(PORT))
    };
    let request = thread::spawn(move || client::fire(&slow, 1));
    status_when(PORT, |seen| seen.live().any(|worker| worker.active == 1))?;
    let drain = ["drain", "--port", "3000", "--pid", &name, "--wait"];
    let timed_out = steer([&drain[..], &["--timeout", "100ms"]].concat())?;
    ensure!(timed_out.code == Some(8), "{timed_out:?}");
    let drained = steer(drain)?;
    ensure!(drained.code == Some(0), "{drained:?}");
    let seen = status(PORT)?;
    let active: u64 = seen
        .groups
        .iter()
        .flat_map(|group| &group.workers)
        .map(|worker| worker.active)
        .sum();
    ensure!(active == 0, "{seen:?}");
    // The worker has answered before it closed.
    ensure!(eventually(Duration::from_secs(1), || request.is_finished()));
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn drain_waits_for_a_worker_that_has_closed_its_listener() -> anyhow::Result<()> {
    isolate()?;
    let mut server = Server::start(PORT, 3)?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let clients = connect(12)?;
    let (leaving, staying): (Vec<_>, Vec<_>) = accept(&server)?
        .into_iter()
        .partition(|accepted| accepted.listener == 2);
    ensure!(leaving.len() == 4);
    let cookie = server.cookies()?[2];
    let seen = status(PORT)?;
    let worker = seen.live().find(|worker| worker.cookie == cookie);
    let slot = worker.context("a worker")?.slot;
    let mut drain = drain(slot)?;
    ensure!(waits(&mut drain)?, "its connections are open");
    server.leave();
    let gone = |seen: &Attachment| {
        let mut workers = seen.groups.iter().flat_map(|group| &group.workers);
        workers.any(|worker| worker.cookie == cookie && worker.state == "gone")
    };
    status_when(PORT, gone)?;
    ensure!(waits(&mut drain)?, "they are open still");
    let mut late = self::drain(slot)?;
    ensure!(
        waits(&mut late)?,
        "they are open for one that comes now, too"
    );
    let mut leaving = leaving;
    let last = leaving.pop();
    drop(leaving);
    ensure!(waits(&mut drain)? && waits(&mut late)?, "one is");
    drop(last);
    ensure!(ends(&mut drain) && ends(&mut late));
    drop((clients, staying));
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn drain_waits_for_what_a_worker_was_handed() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("drain_waits_for_what_a_worker_was_handed")? {
        return Ok(());
    }
    let mut server = Server::start(PORT, 2)?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let clients = connect(10)?;
    let cookie = server.cookies()?[0];
    server.leave();
    let seen = agree("handed over")?;
    let heir = seen.live().find(|worker| worker.cookie == cookie);
    let heir = heir.context("the other worker")?;
    ensure!(heir.active == 10, "{seen:?}");
    let mut drain = drain(heir.slot)?;
    let mut accepted = accept(&server)?;
    let last = accepted.pop();
    drop(accepted);
    ensure!(waits(&mut drain)?, "one is open");
    ensure!(active(&agree("but one")?) == 1);
    drop(last);
    ensure!(ends(&mut drain));
    drop(clients);
    attach.detach()
}
