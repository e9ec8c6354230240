//! Connections that came by TCP Fast Open, with data in the SYN, migrate as all others do.

use std::{
    io::{self, Read as _},
    net::{SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use steer_tests::{
    PORT,
    isolate::isolate,
    net,
    packet::{Flags, Sender, build_with, stranger},
    patience::patience,
    process::eventually,
    server::Server,
    steer::{Attach, status},
    trial::migrates_for,
    workers::{Worker, local},
};

/// What every client asks for, in its SYN.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: steer\r\nConnection: close\r\n\r\n";

/// Workers.
const WORKERS: usize = 3;

/// Connections, a third of them for the worker that is killed.
const CONNECTIONS: usize = 60;

/// Handshakes that may be pending with data.
const LIMIT: i32 = 256;

/// How long an answer or a state may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Data in a SYN is accepted from those who have a cookie, and asked for by clients.
const COOKIES: &str = "3";

/// It is accepted from everybody.
const NO_COOKIES: &str = "515";

/// Sends the request in the SYN, where the kernel has a cookie of the server.
fn ask() -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let sent = socket.send_to_with_flags(REQUEST, &local(PORT).into(), libc::MSG_FASTOPEN)?;
    ensure!(sent == REQUEST.len(), "only {sent} bytes were sent");
    socket.set_read_timeout(Some(patience(PATIENCE)))?;
    Ok(socket.into())
}

/// Whether the whole answer comes, rather than a reset.
fn is_answered(mut stream: TcpStream) -> anyhow::Result<bool> {
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => {
            ensure!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(error).context("neither answered nor reset"),
    }
}

/// Has a third of the connections wait for a stopped worker, kills that, and tells how many were
/// answered.
fn answered(migrate: &str) -> anyhow::Result<usize> {
    net::sysctl("ipv4/tcp_fastopen", COOKIES)?;
    let limit = LIMIT.to_string();
    let worker = || Worker::start("127.0.0.1:3000", &["--fast-open", &limit]);
    let mut workers = (0..WORKERS)
        .map(|_| worker())
        .collect::<anyhow::Result<Vec<_>>>()?;
    // The first one gets the cookie.
    ensure!(is_answered(ask()?)?);
    let extra = ["--migrate", migrate, "--eject-after", "0"];
    let attach = Attach::start(PORT, "rr", &extra)?;
    let victim = workers.remove(0);
    let pid = Pid::from_raw(victim.pid() as i32).context("a pid isn't 0")?;
    kill_process(pid, Signal::STOP)?;

    let before = net::counter("TCPFastOpenPassive")?;
    let clients = (0..CONNECTIONS)
        .map(|_| ask())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let opened = net::counter("TCPFastOpenPassive")? - before;
    ensure!(opened == CONNECTIONS as u64, "{opened} by Fast Open");
    let waiting = || {
        let seen = status(PORT).ok()?;
        let worker = seen.live().find(|worker| worker.pid == victim.pid())?;
        worker.accept_queue
    };
    let third = CONNECTIONS / WORKERS;
    ensure!(
        eventually(PATIENCE, || waiting() == Some(third as u64)),
        "{:?} wait, not a third",
        waiting()
    );
    victim.kill()?;
    let answers = clients
        .into_iter()
        .map(is_answered)
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        eventually(PATIENCE, || active() == Some(0)),
        "{:?}",
        status(PORT)?
    );
    attach.detach()?;
    Ok(answers.into_iter().filter(|answered| *answered).count())
}

fn active() -> Option<u64> {
    let seen = status(PORT).ok()?;
    let workers = seen.groups.first()?.workers.iter();
    Some(workers.map(|worker| worker.active).sum())
}

#[test]
#[ignore = "privileged"]
fn what_waits_for_a_killed_worker_is_answered_by_others() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("what_waits_for_a_killed_worker_is_answered_by_others")? {
        return Ok(());
    }
    ensure!(answered("on")? == CONNECTIONS);
    // Or the test shows nothing.
    ensure!(answered("off")? == CONNECTIONS - CONNECTIONS / WORKERS);
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn those_whose_handshakes_last_migrate_with_their_data() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("those_whose_handshakes_last_migrate_with_their_data")? {
        return Ok(());
    }
    net::route_nowhere()?;
    net::sysctl("ipv4/tcp_fastopen", NO_COOKIES)?;
    let mut server = Server::start(PORT, WORKERS)?;
    server
        .listeners()
        .try_for_each(|listener| net::fast_open(listener, LIMIT))?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let (sender, to) = (
        Sender::new()?,
        SocketAddrV4::new([127, 0, 0, 1].into(), PORT),
    );
    for number in 0..CONNECTIONS as u32 {
        let syn = build_with(stranger(number), to, Flags::Syn, REQUEST)?;
        sender.send_built(&syn, to)?;
    }
    let opened = net::counter("TCPFastOpenPassive")?;
    ensure!(opened == CONNECTIONS as u64, "{opened} by Fast Open");
    ensure!(active() == Some(CONNECTIONS as u64), "{:?}", status(PORT)?);

    server.leave();
    let seen = status(PORT)?;
    let third = (CONNECTIONS / WORKERS) as u64;
    ensure!(seen.groups[0].migrated == third, "{seen:?}");
    let accepted = server.waiting()?;
    ensure!(accepted.len() == CONNECTIONS, "{} accepted", accepted.len());
    for mut connection in accepted {
        let mut request = [0; REQUEST.len()];
        connection.stream.set_nonblocking(true)?;
        connection.stream.read_exact(&mut request)?;
        ensure!(request == *REQUEST);
    }
    ensure!(
        eventually(PATIENCE, || active() == Some(0)),
        "{:?}",
        status(PORT)?
    );
    attach.detach()
}
