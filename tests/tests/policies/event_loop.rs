//! Whether a worker's event loop waits is read from the kernel, where that tells anything.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::event::epoll;
use steer_tests::{
    PORT,
    census::{self, Census},
    fixture::with_workers,
    patience::{is_slow, slowed},
    process::eventually,
    status::Worker,
    steer::{Attach, status, steer},
    texts,
    workers::local,
};
use steer_user::{
    demo::client,
    sys::listening::{ListenOptions, listen},
};

const PATIENCE: Duration = Duration::from_secs(3);

fn of(pid: u32) -> anyhow::Result<Worker> {
    let seen = status(PORT)?;
    let mut workers = seen.groups.into_iter().flat_map(|group| group.workers);
    workers
        .find(|worker| worker.pid == pid)
        .with_context(|| format!("{pid} has no slot"))
}

fn command(args: [&str; 5]) -> anyhow::Result<()> {
    let finished = steer(args)?;
    ensure!(finished.code == Some(0), "{args:?}: {finished:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_waiting_loop_with_ten_connections_goes_before_a_busy_one_with_one() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let [holder, busy] = [workers[0].pid(), workers[1].pid()];
    let attach = Attach::start(PORT, "least", &[])?;
    ensure!(of(holder)?.event_loop && of(busy)?.event_loop);
    // Ten kept-alive connections for one of them.
    command(["drain", "--port", "3000", "--pid", &busy.to_string()])?;
    let idle: Vec<TcpStream> = (0..10)
        .map(|_| TcpStream::connect(local(PORT)))
        .collect::<Result<_, _>>()?;
    ensure!(
        eventually(PATIENCE, || of(holder).is_ok_and(|seen| seen.active == 10)),
        "{:?}",
        status(PORT)?
    );
    command(["undrain", "--port", "3000", "--pid", &busy.to_string()])?;
    // A long request for the other one.
    command(["drain", "--port", "3000", "--pid", &holder.to_string()])?;
    let slow = client::Target {
        path: format!("/block?ms={}", slowed(5000)),
        ..census::root(local(PORT))
    };
    let request = thread::spawn(move || client::fire(&slow, 1));
    ensure!(
        eventually(PATIENCE, || of(busy).is_ok_and(|seen| seen.active == 1)),
        "{:?}",
        status(PORT)?
    );
    command(["undrain", "--port", "3000", "--pid", &holder.to_string()])?;
    // By then no request of the ten is expected any more.
    thread::sleep(Duration::from_millis(100));
    // While the other one is busy for certain, however long one of these takes.
    let mut asked = 0;
    while asked < 40 {
        let quick = census::one_by_one(local(PORT), 1)?;
        if request.is_finished() {
            break;
        }
        quick.exactly(&[holder], 1)?;
        asked += 1;
    }
    ensure!(
        asked == 40 || (is_slow() && asked > 5),
        "only {asked} while the worker was busy"
    );
    let mut slow = Census::default();
    slow.add(1, &request.join().expect("the thread doesn't panic")?);
    ensure!(slow.served.contains_key(&busy), "{slow:?}");
    drop(idle);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_listener_that_two_loops_watch_tells_nothing() -> anyhow::Result<()> {
    let workers = with_workers(1)?;
    let shared = listen(&ListenOptions::new(local(PORT)))?;
    let _loops = [watch(&shared)?, watch(&shared)?];
    let attach = Attach::start(PORT, "least", &[])?;
    ensure!(of(workers[0].pid())?.event_loop, "{:?}", status(PORT)?);
    ensure!(!of(std::process::id())?.event_loop, "{:?}", status(PORT)?);
    // So that of the other one doesn't count either.
    let seen = status(PORT)?;
    ensure!(
        seen.groups.len() == 1 && !seen.groups[0].event_loops,
        "{seen:?}"
    );
    let table = steer(["status", "--port", "3000"])?.stdout;
    ensure!(table.contains(texts::status::NO_EVENT_LOOPS), "{table}");
    attach.detach()
}

fn watch(listener: &TcpListener) -> anyhow::Result<std::os::fd::OwnedFd> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&poller, listener, data, epoll::EventFlags::IN)?;
    Ok(poller)
}
