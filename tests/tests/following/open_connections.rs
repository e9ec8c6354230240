//! *Active* is what the kernel lists as open, whatever happened before.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::{net::listen, process::Signal};
use socket2::SockRef;
use steer_tests::{
    PORT,
    connections::{accept, active, agree, connect},
    isolate::isolate,
    server::{Accepted, Server},
    stateful::{
        crew::Crew,
        share::{Held, hold},
        words::{Kind, Order, PAUSED, SERVING},
    },
    steer::{Attach, status, status_when, steer},
};

#[test]
#[ignore = "privileged"]
fn what_waits_at_the_attach_is_its_workers() -> anyhow::Result<()> {
    isolate()?;
    let server = Server::start(PORT, 4)?;
    let clients = connect(150)?;
    let attach = Attach::start(PORT, "least", &["--eject-after", "0"])?;
    let seen = agree("at the attach")?;
    ensure!(active(&seen) == 150 && seen.live().count() == 4, "{seen:?}");
    for worker in seen.live() {
        ensure!(worker.accept_queue == Some(worker.active), "{seen:?}");
    }
    let mut accepted = accept(&server)?;
    accepted.truncate(100);
    ensure!(active(&agree("accepted")?) == 100);
    // What was born before isn't counted twice with what comes.
    let more = connect(7)?;
    ensure!(active(&agree("later")?) == 107);
    drop((clients, accepted, more));
    drop(accept(&server)?);
    ensure!(active(&agree("at the end")?) == 0);
    attach.detach()
}

/// Connects and accepts, and ends the oldest ones at either end, until it is told to stop.
fn churn(
    server: &Server,
    done: &AtomicBool,
) -> anyhow::Result<(VecDeque<TcpStream>, VecDeque<Accepted>)> {
    let mut clients = VecDeque::new();
    let mut accepted = VecDeque::new();
    for round in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        clients.extend(connect(3)?);
        // Some wait for a while.
        if round % 8 == 0 {
            accepted.extend(accept(server)?);
        }
        if clients.len() > 40 {
            clients.drain(..2);
        }
        if accepted.len() > 30 {
            accepted.drain(..2);
        }
    }
    Ok((clients, accepted))
}

#[test]
#[ignore = "privileged"]
fn attached_taken_over_and_joined_under_load() -> anyhow::Result<()> {
    isolate()?;
    let mut server = Server::start(PORT, 3)?;
    let mut attach = None;
    for round in 0..4 {
        let done = AtomicBool::new(false);
        let held = thread::scope(|scope| {
            let load = scope.spawn(|| churn(&server, &done));
            thread::sleep(Duration::from_millis(50));
            let options = ["--eject-after", "0"];
            let next = Attach::start(PORT, "least", &options);
            thread::sleep(Duration::from_millis(400));
            done.store(true, Ordering::Relaxed);
            let held = load.join().map_err(|_panic| anyhow!("the load panicked"))?;
            attach = Some(next?);
            held
        })?;
        let seen = agree(&format!("round {round}"))?;
        ensure!(active(&seen) > 0, "{seen:?}");
        drop(held);
        drop(accept(&server)?);
        ensure!(active(&agree("without any")?) == 0);
        // Killed; a listener that nobody steers gets some until the next one takes over.
        attach
            .take()
            .context("an attach")?
            .end(Signal::KILL)
            .context("failed to kill it")?;
        server.join()?;
    }
    let unknown = connect(40)?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    ensure!(active(&agree("after a takeover")?) == 40);
    drop(unknown);
    drop(accept(&server)?);
    ensure!(active(&agree("at the end")?) == 0);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_listener_that_was_shut_down_at_the_attach_brings_its_connections() -> anyhow::Result<()> {
    isolate()?;
    let mut crew = Crew::new(PORT);
    crew.start(Kind::Epoll)?;
    let paused = crew.start(Kind::Pauses)?;
    let client = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    ensure!(!paused.is_empty(), "no listener to be shut down");
    let mut held = Vec::new();
    while held.len() < 9
        || paused
            .iter()
            .any(|one| held.iter().all(|held: &Held| held.mark != one.mark))
    {
        held.push(hold(client, PORT)?);
    }
    crew.running[1].tell(Order::Pause, PAUSED, paused.len())?;
    let attach = Attach::start(PORT, "rr", &[])?;
    // It has looked at all that was there before for the last time.
    thread::sleep(Duration::from_secs(1));
    crew.running[1].tell(Order::Again, SERVING, paused.len())?;
    status_when(PORT, |seen| seen.live().count() == 3)?;
    ensure!(active(&agree("listening again")?) == held.len() as u64);
    drop(held);
    ensure!(active(&agree("at the end")?) == 0);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_listener_that_listens_again_goes_on() -> anyhow::Result<()> {
    const WORKERS: usize = 4;
    isolate()?;
    let server = Server::start(PORT, WORKERS)?;
    let cookies = server.cookies()?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let heavy = status(PORT)?
        .live()
        .find(|worker| worker.cookie == cookies[1])
        .map(|worker| worker.slot.to_string())
        .context("no slot")?;
    let port = PORT.to_string();
    let weighed = steer(["weight", "--port", &port, "--slot", &heavy, "2"])?;
    ensure!(weighed.code == Some(0), "{weighed:?}");
    let mut held = Vec::new();
    for pause in 1..=5 {
        let clients = connect(20)?;
        let accepted = accept(&server)?;
        for (index, cookie) in cookies.iter().enumerate() {
            let count = accepted.iter().filter(|one| one.listener == index).count();
            let expected = if index == 1 { 8 } else { 4 };
            ensure!(count == expected, "pause {pause}: {count} of {cookie}");
        }
        held.push((clients, accepted));
        ensure!(active(&agree("before the pause")?) == 20 * pause);
        for listener in server.listeners() {
            SockRef::from(listener).shutdown(Shutdown::Read)?;
        }
        // In another order each time, the first ones before steer can have seen the last ones go.
        for index in 0..WORKERS {
            let index = (index + pause as usize) % WORKERS;
            let listener = server.listeners().nth(index).context("a listener")?;
            listen(listener, 128)?;
        }
        status_when(PORT, |seen| {
            let unsteered = seen.groups.iter().map(|group| group.unsteered).sum::<u64>();
            let attached = seen.groups.iter().all(|group| group.attached == Some(true));
            seen.live().count() == WORKERS && unsteered == 0 && attached
        })?;
        ensure!(active(&agree("after the pause")?) == 20 * pause);
    }
    let seen = status(PORT)?;
    for worker in seen.live() {
        let weight = if worker.cookie == cookies[1] { 2 } else { 1 };
        ensure!(worker.weight == weight, "{seen:?}");
    }
    drop(held);
    ensure!(active(&agree("at the end")?) == 0);
    attach.detach()
}
