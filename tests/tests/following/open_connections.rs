//! *Active* is what the kernel lists as open, whatever happened before.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::{net::listen, process::Signal};
use socket2::SockRef;
use steer_tests::{
    PORT,
    isolate::isolate,
    process::eventually,
    server::{Accepted, Server},
    stateful::{
        crew::Crew,
        share::{Held, hold},
        words::{Kind, Order, PAUSED, SERVING},
    },
    status::Attachment,
    steer::{Attach, binary, status, status_when, steer},
    trial::migrates_for,
    workers::local,
};
use steer_user::sys::sockdiag;

/// How long a command may take to end once it can.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a command that must not end is watched.
const WATCHED: Duration = Duration::from_millis(700);

/// What all workers have open by steer's counts.
fn active(seen: &Attachment) -> u64 {
    let workers = seen.groups.iter().flat_map(|group| &group.workers);
    workers.map(|worker| worker.active).sum()
}

/// What they have by the kernel's list.
fn listed() -> anyhow::Result<u64> {
    Ok(sockdiag::connections(PORT)?.len() as u64)
}

/// Waits until both are the same.
fn agree(when: &str) -> anyhow::Result<Attachment> {
    let same = |seen: &Attachment| listed().is_ok_and(|listed| listed == active(seen));
    status_when(PORT, same).with_context(|| format!("{when}: {:?} are listed", listed()))
}

fn connect(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let client = TcpStream::connect(local(PORT)).context("failed to connect")?;
            // Its end is the end.
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            Ok(client)
        })
        .collect()
}

/// Accepts until nothing waits.
fn accept(server: &Server) -> anyhow::Result<Vec<Accepted>> {
    let mut all = Vec::new();
    loop {
        let accepted = server.waiting()?;
        if accepted.is_empty() {
            return Ok(all);
        }
        all.extend(accepted);
    }
}

#[test]
#[ignore = "privileged"]
fn what_waits_at_the_attach_is_its_workers() -> anyhow::Result<()> {
    isolate()?;
    let server = Server::start(PORT, 4)?;
    let clients = connect(150)?;
    let attach = Attach::start(PORT, "least", &["--eject-after", "0"])?;
    let seen = agree("at the attach")?;
    ensure!(active(&seen) == 150, "{seen:?}");
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
