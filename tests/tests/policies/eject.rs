//! A worker that has stopped accepting is not selected until it accepts again, by any policy.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use steer_tests::{
    PORT,
    fixture::steered,
    isolate::isolate,
    patience::slowed,
    process::eventually,
    server::Server,
    status::Worker,
    steer::{Attach, status},
    trial::migrates_for,
    workers::{self, local},
};

fn eject_after() -> String {
    format!("{}ms", slowed(300))
}

/// When a stopped worker is out on a quiet machine: a second later.
const WITHIN: Duration = Duration::from_millis(1300);

/// How long a state may take to show.
const SETTLE: Duration = Duration::from_secs(3);

const POLICIES: [&str; 5] = ["rr", "least", "p2c", "sticky", "hash"];

/// Addresses that the clients have, so that `sticky` has some for every worker.
const CLIENTS: u8 = 64;

/// Connections that the clients have open at most.
const PENDING: usize = 400;

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid as i32).expect("a pid isn't 0");
    Ok(kill_process(pid, signal)?)
}

fn worker(pid: u32) -> anyhow::Result<Worker> {
    let seen = status(PORT)?;
    let mut workers = seen.groups.into_iter().flat_map(|group| group.workers);
    workers
        .find(|worker| worker.pid == pid)
        .ok_or_else(|| anyhow::anyhow!("{pid} is not in the status"))
}

/// Clients that come from many addresses, one connection each 3 ms on a usual machine, for as long as it is kept.
struct Load {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start() -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let thread = {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                // What a stopped worker has not answered is kept for a while, as a client would.
                let mut open = VecDeque::new();
                for number in (0..CLIENTS).cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    open.extend(ask_from(Ipv4Addr::new(127, 0, 1, number + 1)));
                    if open.len() > PENDING {
                        open.pop_front();
                    }
                    thread::sleep(Duration::from_millis(slowed(3).into()));
                }
            })
        };
        Self {
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Sends a request and leaves the answer to itself. A refusal is an end like any other here.
fn ask_from(client: Ipv4Addr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((client, 0)).into()).ok()?;
    socket.set_linger(Some(Duration::ZERO)).ok()?;
    let patience = Duration::from_millis(100);
    socket.connect_timeout(&local(PORT).into(), patience).ok()?;
    let mut stream = TcpStream::from(socket);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: steer\r\nConnection: close\r\n\r\n")
        .ok()?;
    Some(stream)
}

/// SYNs for which each worker was chosen.
fn selected() -> anyhow::Result<BTreeMap<u32, u64>> {
    let seen = status(PORT)?;
    let workers = seen.groups.iter().flat_map(|group| &group.workers);
    Ok(workers
        .map(|worker| (worker.pid, worker.selected))
        .collect())
}

/// A second under load, in which this worker is selected for nothing: how it is then, or none where it
/// was selected.
fn a_second_without(pid: u32) -> anyhow::Result<Option<Worker>> {
    let before = worker(pid)?;
    let others_before: u64 = selected()?.values().sum();
    thread::sleep(Duration::from_secs(1));
    let after = worker(pid)?;
    let others_after: u64 = selected()?.values().sum();
    ensure!(others_after > others_before, "no load");
    let same = before.selected == after.selected && before.connections == after.connections;
    Ok(same.then_some(after))
}

#[test]
#[ignore = "privileged"]
fn a_stopped_worker_gets_nothing_by_any_policy() -> anyhow::Result<()> {
    for policy in POLICIES {
        let (workers, attach) = steered(4, policy, &["--eject-after", &eject_after()])?;
        let load = Load::start();
        let stopped = workers[1].pid();
        ensure!(
            eventually(SETTLE, || worker(stopped).is_ok_and(|w| w.selected > 0)),
            "{policy}: unused from the start"
        );
        signal(stopped, Signal::STOP)?;
        // On a busy machine another one may accept too late as well, which brings the stopped one back
        // for a moment: more than half are never out.
        let mut after = None;
        let out = eventually(WITHIN, || {
            after = a_second_without(stopped).ok().flatten();
            after.is_some()
        });
        ensure!(out, "{policy}: {:?}", status(PORT));
        let after = after.context(policy)?;
        // Where nothing but its being stuck can keep it from being selected.
        ensure!(
            policy == "least" || after.state == "ejected",
            "{policy}: {after:?}"
        );
        signal(stopped, Signal::CONT)?;
        ensure!(
            eventually(SETTLE, || worker(stopped).is_ok_and(|worker| worker.state
                == "live"
                && worker.selected > after.selected)),
            "{policy}: not back: {:?}",
            status(PORT)?
        );
        drop(load);
        attach.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn with_all_stopped_all_are_used() -> anyhow::Result<()> {
    for policy in POLICIES {
        let (workers, attach) = steered(4, policy, &["--eject-after", &eject_after()])?;
        let pids = workers::pids(&workers);
        for pid in &pids {
            signal(*pid, Signal::STOP)?;
        }
        let load = Load::start();
        thread::sleep(Duration::from_millis(slowed(1300).into()));
        let seen = status(PORT)?;
        let ejected = seen.groups[0]
            .workers
            .iter()
            .filter(|worker| worker.state == "ejected")
            .count();
        ensure!(ejected <= 2, "{policy}: more than half: {seen:?}");
        let before = selected()?;
        let used = eventually(WITHIN, || {
            selected().is_ok_and(|after| pids.iter().all(|pid| after[pid] > before[pid]))
        });
        ensure!(
            used,
            "{policy}: unused: {before:?}, later {:?}",
            selected()?
        );
        for pid in &pids {
            signal(*pid, Signal::CONT)?;
        }
        ensure!(
            eventually(SETTLE, || status(PORT).is_ok_and(|seen| {
                seen.live().count() == pids.len() && seen.groups[0].workers.len() == pids.len()
            })),
            "{policy}: {:?}",
            status(PORT)?
        );
        let seen = status(PORT)?;
        ensure!(seen.groups[0].hashed == 0, "{policy}: {seen:?}");
        drop(load);
        attach.detach()?;
    }
    Ok(())
}

/// Who has had nothing to accept for long, and is handed what waited for another, isn't stuck.
#[test]
#[ignore = "privileged"]
fn who_is_handed_connections_has_time_to_accept_them() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("who_is_handed_connections_has_time_to_accept_them")? {
        return Ok(());
    }
    let mut server = Server::start(PORT, 3)?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "5s"])?;
    server.connections(9)?;
    let mut clients = Vec::new();
    // All but the newest accept theirs. The last time that they are looked at they have nothing to accept.
    for _ in 0..2 {
        for _ in 0..3 {
            clients.push(TcpStream::connect(local(PORT))?);
        }
        for listener in server.listeners().take(2) {
            drop(listener.accept()?);
        }
    }
    thread::sleep(Duration::from_secs(6));
    server.leave();
    let before = selected_by_cookie()?;
    let _more: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(local(PORT)))
        .collect::<Result<_, _>>()?;
    let seen = status(PORT)?;
    ensure!(seen.groups[0].migrated == 2, "{seen:?}");
    ensure!(seen.live().count() == 2, "one is ejected: {seen:?}");
    for cookie in server.cookies()? {
        let got = selected_by_cookie()?[&cookie] - before[&cookie];
        ensure!(got == 10, "{cookie} got {got} of 20: {seen:?}");
    }
    attach.detach()
}

/// SYNs for which each listener was chosen.
fn selected_by_cookie() -> anyhow::Result<BTreeMap<u64, u64>> {
    let seen = status(PORT)?;
    let workers = seen.groups.iter().flat_map(|group| &group.workers);
    Ok(workers
        .map(|worker| (worker.cookie, worker.selected))
        .collect())
}

#[test]
#[ignore = "privileged"]
fn zero_ejects_nobody() -> anyhow::Result<()> {
    let (workers, attach) = steered(3, "rr", &["--eject-after", "0"])?;
    let stopped = workers[0].pid();
    signal(stopped, Signal::STOP)?;
    let load = Load::start();
    thread::sleep(Duration::from_millis(slowed(1300).into()));
    ensure!(worker(stopped)?.state == "live");
    drop(load);
    signal(stopped, Signal::CONT)?;
    attach.detach()
}
