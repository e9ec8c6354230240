//! However connections end, the counts of open ones are exact.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::net::connect_unspec;
use socket2::SockRef;
use steer_tests::{
    PORT,
    isolate::isolate,
    net,
    process::eventually,
    server::{Accepted, Server},
    steer::{Attach, status, status_when, steer},
    workers::local,
};

/// Connections of the gate's run; the variable `STEER_COUNTS_CONNECTIONS` has another number.
const CONNECTIONS: u64 = 20_000;

/// Listeners.
const WORKERS: usize = 8;

/// Threads that connect and accept at the same time; each accepts for all.
const THREADS: u64 = 2;

/// Connections that a thread opens before it ends them.
const BATCH: u64 = 50;

/// More than are ever open: one thread may hold what another one has opened.
const MOST_OPEN: u64 = 4 * THREADS * BATCH;

/// Connections that are held open to see that no end was counted twice.
const HELD: usize = 40;

/// A port that isn't steered.
const OTHER_PORT: u16 = 4000;

/// Each has its part of the connections.
const POLICIES: [&str; 5] = ["least", "rr", "p2c", "hash", "sticky"];

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client resets it before it is accepted.
    ResetInQueue,
    /// The client closes it before it is accepted.
    ClosedInQueue,
    /// The client sends and closes before it is accepted; the worker reads nothing.
    SentAndClosedInQueue,
    /// The client resets it afterwards.
    Reset,
    /// The client closes it, then the worker.
    Closed,
    /// The client shuts its direction, the worker answers and closes.
    HalfClosed,
    /// The worker closes it.
    ClosedByWorker,
    /// The worker shuts its direction, the client closes, then the worker.
    HalfClosedByWorker,
    /// The worker closes without having read what came, which is a reset.
    Unread,
    /// The worker resets it.
    ResetByWorker,
    /// The worker makes the socket the client of another server.
    Reused,
}

impl End {
    const ALL: [Self; 11] = [
        Self::ResetInQueue,
        Self::ClosedInQueue,
        Self::SentAndClosedInQueue,
        Self::Reset,
        Self::Closed,
        Self::HalfClosed,
        Self::ClosedByWorker,
        Self::HalfClosedByWorker,
        Self::Unread,
        Self::ResetByWorker,
        Self::Reused,
    ];

    /// The client's address says it, which both sides know. The kernel prefers even ports.
    fn of(client: SocketAddr) -> Self {
        Self::ALL[usize::from(client.port() / 2) % Self::ALL.len()]
    }
}

/// What the threads share.
struct Run {
    server: Server,
    other: Server,
    opened: AtomicU64,
    accepted: AtomicU64,
}

#[test]
#[ignore = "privileged"]
fn every_end_is_counted_once() -> anyhow::Result<()> {
    isolate()?;
    all_ends("")
}

/// From Linux 6.2 on a tracing program isn't run where it interrupts itself.
#[test]
#[ignore = "privileged"]
fn every_end_is_counted_once_in_interrupts() -> anyhow::Result<()> {
    isolate()?;
    net::handle_in_interrupts(3)?;
    all_ends(", in interrupts")
}

fn all_ends(how: &str) -> anyhow::Result<()> {
    // What the client closes first stays in TIME_WAIT and must not use up the ports.
    net::sysctl("ipv4/tcp_tw_reuse", "1")?;
    net::sysctl("ipv4/ip_local_port_range", "5000 65000")?;
    let connections = match env::var("STEER_COUNTS_CONNECTIONS") {
        Ok(number) => number.parse().context("STEER_COUNTS_CONNECTIONS")?,
        Err(_) => CONNECTIONS,
    };
    let run = Run {
        server: Server::start(PORT, WORKERS)?,
        other: Server::start(OTHER_PORT, 1)?,
        opened: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
    };
    let attach = Attach::start(PORT, POLICIES[0], &[])?;
    let started = Instant::now();
    let mut samples = 0;
    for policy in POLICIES {
        let changed = steer(["policy", "--port", &PORT.to_string(), policy])?;
        ensure!(changed.code == Some(0), "{changed:?}");
        samples += part(&run, connections / POLICIES.len() as u64)
            .with_context(|| format!("under {policy}"))?;
    }
    ensure!(samples > 0, "nobody looked at the counts meanwhile");
    // Past libtest's capture.
    writeln!(
        io::stderr(),
        "{connections} connections{how} in {:?}, {samples} looks at the counts",
        started.elapsed()
    )?;
    attach.detach()
}

/// That many connections, while another thread looks at the counts. Says how often it did.
fn part(run: &Run, connections: u64) -> anyhow::Result<usize> {
    let done = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let sampler = scope.spawn(|| -> anyhow::Result<usize> {
            let mut samples = 0;
            while !done.load(Ordering::Relaxed) {
                let seen = status(PORT)?;
                for worker in seen.live() {
                    ensure!(worker.active <= MOST_OPEN, "{seen:?}");
                }
                samples += 1;
            }
            Ok(samples)
        });
        let rounds = connections / THREADS / BATCH;
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(move || (0..rounds).try_for_each(|_| round(run))))
            .collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.map_err(|_panic| anyhow!("a thread panicked"))??;
        }
        sampler
            .join()
            .map_err(|_panic| anyhow!("a thread panicked"))?
    })?;
    exact(run)?;
    Ok(samples)
}

/// Opens connections and ends each of them in its way.
fn round(run: &Run) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..BATCH {
        let client = TcpStream::connect(local(PORT));
        run.opened.fetch_add(1, Ordering::Relaxed);
        match client {
            Ok(client) => clients.push((End::of(client.local_addr()?), client)),
            // Another thread was quick to accept it and to reset it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("failed to connect"),
        }
    }
    let (in_queue, mut clients): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(end, _)| {
        matches!(
            end,
            End::ResetInQueue | End::ClosedInQueue | End::SentAndClosedInQueue
        )
    });
    for (end, client) in in_queue {
        if end == End::ResetInQueue {
            reset(&client)?;
        } else if end == End::SentAndClosedInQueue {
            send(&client);
        }
    }
    let accepted = accept(run)?;
    for (end, client) in &mut clients {
        if *end == End::HalfClosed {
            shut(client);
        } else if *end == End::Unread {
            send(client);
        }
    }
    let (by_client, by_worker): (Vec<_>, Vec<_>) = clients
        .into_iter()
        .partition(|(end, _)| matches!(end, End::Reset | End::Closed));
    for (end, client) in by_client {
        if end == End::Reset {
            reset(&client)?;
        }
    }
    accepted
        .iter()
        .try_for_each(|accepted| first_act(accepted, End::of(accepted.client)))?;
    // The worker's end of the half-closed ones goes last.
    let mut late = Vec::new();
    for accepted in accepted {
        let end = End::of(accepted.client);
        if end == End::HalfClosedByWorker {
            late.push(accepted.stream);
        } else if end == End::ResetByWorker {
            reset(&accepted.stream)?;
        }
    }
    for (end, client) in by_worker {
        // So that neither end lingers.
        if end == End::ClosedByWorker {
            reset(&client)?;
        }
    }
    drop(late);
    drop(run.other.waiting()?);
    Ok(())
}

/// What the worker does to a connection before it closes it.
fn first_act(accepted: &Accepted, end: End) -> anyhow::Result<()> {
    if end == End::HalfClosed {
        send(&accepted.stream);
    } else if end == End::HalfClosedByWorker {
        shut(&accepted.stream);
    } else if end == End::Reused {
        connect_unspec(&accepted.stream).context("failed to disconnect")?;
        SockRef::from(&accepted.stream)
            .connect(&local(OTHER_PORT).into())
            .context("failed to connect once more")?;
    }
    Ok(())
}

/// Accepts until nothing waits.
fn accept(run: &Run) -> anyhow::Result<Vec<Accepted>> {
    let mut all = Vec::new();
    loop {
        let accepted = run.server.waiting()?;
        if accepted.is_empty() {
            return Ok(all);
        }
        run.accepted
            .fetch_add(accepted.len() as u64, Ordering::Relaxed);
        all.extend(accepted);
    }
}

/// Accepts and closes what is left over, and checks that each worker has as many open connections
/// as are held of it, and all together as many as there ever were.
fn settle(run: &Run, held: &BTreeMap<u64, u64>) -> anyhow::Result<()> {
    let opened = run.opened.load(Ordering::Relaxed);
    let all = eventually(Duration::from_secs(5), || {
        drop(accept(run));
        run.accepted.load(Ordering::Relaxed) == opened
    });
    ensure!(all, "{opened} opened, accepted: {:?}", run.accepted);
    status_when(PORT, |seen| {
        let born: u64 = seen.live().map(|worker| worker.connections).sum();
        born == opened
            && seen.live().count() == WORKERS
            && seen.live().all(|worker| {
                worker.active == held.get(&worker.cookie).copied().unwrap_or_default()
            })
    })
    .with_context(|| format!("{opened} opened, held: {held:?}"))?;
    Ok(())
}

/// Checks that no worker has an open connection, and that some more are counted one by one: had an
/// end been counted twice, they would be hidden by it.
fn exact(run: &Run) -> anyhow::Result<()> {
    settle(run, &BTreeMap::new())?;
    let cookies = run.server.cookies()?;
    let mut clients = Vec::new();
    for _ in 0..HELD {
        clients.push(TcpStream::connect(local(PORT))?);
        run.opened.fetch_add(1, Ordering::Relaxed);
    }
    let mut accepted = Vec::new();
    ensure!(
        eventually(Duration::from_secs(5), || {
            accepted.extend(accept(run).unwrap_or_default());
            accepted.len() == HELD
        }),
        "only {} of {HELD} accepted",
        accepted.len()
    );
    let mut held = BTreeMap::new();
    for accepted in &accepted {
        *held.entry(cookies[accepted.listener]).or_default() += 1;
    }
    settle(run, &held)?;
    drop(accepted);
    clients.iter().try_for_each(reset)?;
    drop(clients);
    settle(run, &BTreeMap::new())
}

/// Sends something, unless the other end is gone already.
fn send(mut stream: &TcpStream) {
    drop(stream.write(b"x"));
}

/// Shuts this direction, likewise.
fn shut(stream: &TcpStream) {
    drop(stream.shutdown(Shutdown::Write));
}

/// Makes its close a reset.
fn reset(stream: &TcpStream) -> anyhow::Result<()> {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .context("failed to set SO_LINGER")
}
