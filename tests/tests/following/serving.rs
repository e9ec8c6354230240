//! Who serves a listener, where one look at one moment doesn't tell: reloads in which old and new
//! workers poll the same listeners, workers that block in accept() or select(), forked helpers that
//! inherit a listener, managers whose children poll it.

use std::{
    io::{PipeWriter, Write as _, pipe},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT, census,
    process::{Output, Process, eventually},
    servers::{self, Room},
    skip::skip,
    status::Worker as Row,
    steer::{Attach, code, status, status_when, steer},
    texts,
    trial::migrates_for,
    workers::{self, local},
};

/// How long a state may take to be noticed. It takes a second or two.
const NOTICED: Duration = Duration::from_secs(8);

/// Python, or a reason why the test can't run.
macro_rules! python_or_skip {
    ($test:literal) => {
        match servers::program("python3", "python3") {
            Ok(python) => python,
            Err(reason) => return skip($test, &reason),
        }
    };
}

/// A running `serving.py`.
struct Server {
    process: Process,
    commands: PipeWriter,
}

impl Server {
    fn start(python: &PathBuf, args: &[&str]) -> anyhow::Result<Self> {
        let (reader, commands) = pipe()?;
        let mut command = Command::new(python);
        command.arg(servers::file("serving.py"));
        command.arg(PORT.to_string()).args(args).stdin(reader);
        let mut process = Process::spawn(command, Output::Stdout)?;
        process.wait_line("listening", Duration::from_secs(20))?;
        Ok(Self { process, commands })
    }

    /// Has it carry out a command.
    fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.commands, "{command}")?;
        self.process.wait_line("done", Duration::from_secs(20))?;
        Ok(())
    }
}

/// The workers that are live, in order of their listeners' slots.
fn live() -> anyhow::Result<Vec<Row>> {
    Ok(status(PORT)?.live().cloned().collect())
}

/// Waits until that many are live and the event loop of each is known.
fn all_known(count: usize) -> anyhow::Result<Vec<Row>> {
    let mut seen = live();
    let known = eventually(NOTICED, || {
        seen = live();
        seen.as_ref()
            .is_ok_and(|seen| seen.len() == count && seen.iter().all(|worker| worker.event_loop))
    });
    ensure!(known, "{:?}", status(PORT)?);
    seen
}

/// Requests that keep workers busy for so long each.
fn keep_busy(requests: usize, ms: u32) -> anyhow::Result<Vec<TcpStream>> {
    let request = format!("GET /block?ms={ms} HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut streams = Vec::new();
    for _ in 0..requests {
        let mut stream = TcpStream::connect(local(PORT))?;
        stream.write_all(request.as_bytes())?;
        streams.push(stream);
    }
    Ok(streams)
}

#[test]
#[ignore = "privileged"]
fn a_hand_over_changes_neither_shares_nor_slots() -> anyhow::Result<()> {
    let python = python_or_skip!("a_hand_over_changes_neither_shares_nor_slots");
    let _room = Room::enter()?;
    let mut server = Server::start(&python, &["3", "--master"])?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let before = all_known(3)?;
    let pids: Vec<u32> = before.iter().map(|worker| worker.pid).collect();
    census::one_by_one(local(PORT), 30)?.exactly(&pids, 10)?;
    for _ in 0..3 {
        for listener in 0..3 {
            server.tell(&format!("fork {listener}"))?;
        }
        // Meanwhile the old ones end one by one, and steer looks at each end.
        for listener in 0..3 {
            server.tell(&format!("kill {listener}"))?;
            thread::sleep(Duration::from_millis(60));
        }
    }
    let after = all_known(3)?;
    for (was, is) in before.iter().zip(&after) {
        ensure!(
            was.slot == is.slot && was.cookie == is.cookie,
            "{was:?}, {is:?}"
        );
        ensure!(is.selected >= was.selected, "{was:?}, {is:?}");
        ensure!(!pids.contains(&is.pid), "{is:?} has ended");
    }
    let pids: Vec<u32> = after.iter().map(|worker| worker.pid).collect();
    census::one_by_one(local(PORT), 120)?.exactly(&pids, 40)?;
    // Who serves it now is who is meant.
    let drained = after[1].pid.to_string();
    let finished = steer(["drain", "--port", "3000", "--pid", &drained])?;
    ensure!(finished.code == Some(0), "{finished:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_worker_that_lives_on_after_a_hand_over_is_not_taken_for_the_new_one() -> anyhow::Result<()> {
    let python =
        python_or_skip!("a_worker_that_lives_on_after_a_hand_over_is_not_taken_for_the_new_one");
    let _room = Room::enter()?;
    let mut server = Server::start(&python, &["2", "--master"])?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let old: Vec<u32> = all_known(2)?.iter().map(|worker| worker.pid).collect();
    for listener in 0..2 {
        server.tell(&format!("fork {listener}"))?;
        // The new one polls it before the old one leaves, as nginx's do.
        thread::sleep(Duration::from_millis(100));
        server.tell(&format!("retire {listener}"))?;
    }
    // No process ends, and nothing listens anew: only connections show it.
    let census = census::one_by_one(local(PORT), 300)?;
    ensure!(
        census.answered() == 300 && old.iter().all(|pid| !census.served.contains_key(pid)),
        "{census:?}"
    );
    let new: Vec<u32> = census.served.keys().copied().collect();
    let named = || -> anyhow::Result<bool> {
        let mut pids: Vec<u32> = all_known(2)?.iter().map(|worker| worker.pid).collect();
        pids.sort_unstable();
        Ok(pids == new)
    };
    ensure!(
        eventually(NOTICED, || named().unwrap_or(false)),
        "{new:?}, not {:?}",
        status(PORT)?
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_listener_is_evicted_whoever_holds_it_by_now() -> anyhow::Result<()> {
    const TEST: &str = "a_listener_is_evicted_whoever_holds_it_by_now";
    let python = python_or_skip!("a_listener_is_evicted_whoever_holds_it_by_now");
    let _room = Room::enter()?;
    if !migrates_for(TEST)? {
        return Ok(());
    }
    let other = workers::Worker::start("127.0.0.1:3000", &[])?;
    let mut server = Server::start(&python, &["1", "--master"])?;
    let attach = Attach::start(PORT, "rr", &[])?;
    all_known(2)?;
    server.tell("fork 0")?;
    thread::sleep(Duration::from_millis(100));
    server.tell("retire 0")?;
    // No connection has told yet that the old one has closed it, and steer may find out by itself
    // between two looks at the table. Either of them is who has it by then.
    let evict = || {
        let rows = live()?;
        let row = rows.iter().find(|row| row.pid != other.pid());
        let pid = row.context("no other worker")?.pid.to_string();
        steer(["evict", "--port", "3000", "--pid", &pid, "--yes"])
    };
    let mut evicted = evict()?;
    if evicted.code == Some(code::NOTHING) {
        evicted = evict()?;
    }
    ensure!(evicted.code == Some(0), "{evicted:?}");
    status_when(PORT, |seen| seen.live().count() == 1)?;
    census::one_by_one(local(PORT), 12)?.exactly(&[other.pid()], 12)?;
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn attach_waits_for_the_end_of_a_hand_over() -> anyhow::Result<()> {
    let python = python_or_skip!("attach_waits_for_the_end_of_a_hand_over");
    let _room = Room::enter()?;
    let mut server = Server::start(&python, &["2", "--master"])?;
    for no_wait in [false, true] {
        server.tell("fork 0")?;
        server.tell("fork 1")?;
        let extra: &[&str] = if no_wait { &["--no-wait"] } else { &[] };
        let mut attach = Attach::spawn(PORT, "rr", extra)?;
        let waits = attach.wait_line(texts::attach::WAITING_FOR_WORKER)?;
        ensure!(waits.contains(texts::status::SEVERAL_PROCESSES), "{waits}");
        server.tell("kill 0")?;
        server.tell("kill 1")?;
        attach.wait_line(texts::attach::STEERING)?;
        let pids: Vec<u32> = all_known(2)?.iter().map(|worker| worker.pid).collect();
        census::one_by_one(local(PORT), 40)?.exactly(&pids, 20)?;
        attach.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_listener_in_a_hand_over_keeps_the_share_of_the_hash() -> anyhow::Result<()> {
    let python = python_or_skip!("a_listener_in_a_hand_over_keeps_the_share_of_the_hash");
    let _room = Room::enter()?;
    let others = [
        workers::Worker::start("127.0.0.1:3000", &[])?,
        workers::Worker::start("127.0.0.1:3000", &[])?,
    ];
    let mut server = Server::start(&python, &["1", "--master"])?;
    for policy in ["rr", "least"] {
        server.tell("fork 0")?;
        // Who serves one of the three listeners can't be told, and the two others are steered.
        let attach = Attach::start(PORT, policy, &[])?;
        let rows = all_known(2)?;
        ensure!(
            others
                .iter()
                .all(|other| rows.iter().any(|row| row.pid == other.pid())),
            "{rows:?}"
        );
        let mut census = census::one_by_one(local(PORT), 360)?;
        ensure!(census.answered() == 360, "{census:?}");
        census
            .served
            .retain(|pid, _| others.iter().all(|other| other.pid() != *pid));
        // A third by the hash, seven standard deviations around it.
        ensure!(
            (60..180).contains(&census.answered()),
            "{policy}: {census:?}"
        );
        server.tell("kill 0")?;
        let pids: Vec<u32> = all_known(3)?.iter().map(|worker| worker.pid).collect();
        census::one_by_one(local(PORT), 30)?.exactly(&pids, 10)?;
        attach.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_managers_child_is_the_worker_and_so_is_the_next_one() -> anyhow::Result<()> {
    let python = python_or_skip!("a_managers_child_is_the_worker_and_so_is_the_next_one");
    let _room = Room::enter()?;
    let mut server = Server::start(&python, &["1", "--master"])?;
    let manager = server.process.pid();
    let other = workers::Worker::start("127.0.0.1:3000", &[])?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let first = all_known(2)?;
    ensure!(
        first.iter().all(|worker| worker.pid != manager),
        "{first:?}"
    );
    // While it has no child that polls it, it gets nothing.
    server.tell("kill 0")?;
    status_when(PORT, |seen| seen.live().count() == 1)?;
    census::one_by_one(local(PORT), 10)?.exactly(&[other.pid()], 10)?;
    server.tell("fork 0")?;
    let next = all_known(2)?;
    let slots = |rows: &[Row]| {
        rows.iter()
            .map(|row| (row.slot, row.cookie))
            .collect::<Vec<_>>()
    };
    ensure!(slots(&first) == slots(&next), "{first:?}, {next:?}");
    let pids: Vec<u32> = next.iter().map(|worker| worker.pid).collect();
    ensure!(!pids.contains(&manager), "{next:?}");
    census::one_by_one(local(PORT), 40)?.exactly(&pids, 20)?;
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn workers_that_block_are_known_though_they_were_busy() -> anyhow::Result<()> {
    let python = python_or_skip!("workers_that_block_are_known_though_they_were_busy");
    let _room = Room::enter()?;
    for by in ["accept", "select"] {
        let server = Server::start(&python, &["3", "--by", by, "--helper"])?;
        servers::pids(local(PORT), 3)?;
        // The hash may give two to one and none to another, so there are more than workers.
        let busy = keep_busy(12, 500)?;
        thread::sleep(Duration::from_millis(100));
        let mut attach = Attach::spawn(PORT, "least", &[])?;
        // Nobody is seen waiting, and nobody is excluded: the helpers hold the listeners, too.
        attach.wait_line(texts::attach::STEERING)?;
        let seen = all_known(3)?;
        status_when(PORT, |seen| seen.is_idle(3))?;
        drop(busy);
        // One long request: the others get all that comes meanwhile, as that one is known to be busy.
        let long = keep_busy(1, 4000)?;
        let rows = status_when(PORT, |seen| seen.live().any(|worker| worker.active == 1))?;
        let busy = rows.live().find(|worker| worker.active == 1);
        let busy = busy.context("nobody is busy")?.pid;
        let census = census::one_by_one(local(PORT), 20)?;
        ensure!(
            census.answered() == 20 && !census.served.contains_key(&busy),
            "{by}: {busy} was busy: {census:?}"
        );
        // It stays what it is while it is busy, though steer looks: another worker comes and goes.
        workers::Worker::start("127.0.0.1:3000", &[])?.kill()?;
        let later = status_when(PORT, |seen| seen.live().count() == 3)?;
        let later: Vec<&Row> = later.live().collect();
        let same = |was: &Row| {
            later
                .iter()
                .any(|is| is.pid == was.pid && is.slot == was.slot)
        };
        ensure!(
            seen.iter().all(same) && later.iter().all(|worker| worker.event_loop),
            "{by}: {seen:?}, {later:?}"
        );
        drop(long);
        attach.detach()?;
        end(server)?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_worker_that_crash_loops_hides_nothing() -> anyhow::Result<()> {
    let python = python_or_skip!("a_worker_that_crash_loops_hides_nothing");
    let _room = Room::enter()?;
    let _steady = workers::Worker::start("127.0.0.1:3000", &[])?;
    let mut server = Server::start(&python, &["1", "--master"])?;
    server.tell("kill 0")?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let crashing = scope.spawn(|| -> anyhow::Result<u32> {
            let mut crashes = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                workers::Worker::start("127.0.0.1:3000", &[])?.kill()?;
                thread::sleep(Duration::from_millis(30));
                crashes += 1;
            }
            Ok(crashes)
        });
        thread::sleep(Duration::from_millis(700));
        let found = server.tell("fork 0").and_then(|()| {
            let pid = || -> anyhow::Result<bool> {
                let manager = server.process.pid();
                let rows = live()?;
                let child =
                    std::fs::read_to_string(format!("/proc/{manager}/task/{manager}/children"))?;
                let child: u32 = child.trim().parse().context("not one child")?;
                Ok(rows.iter().any(|row| row.pid == child && row.event_loop))
            };
            ensure!(
                eventually(NOTICED, || pid().unwrap_or(false)),
                "{:?}",
                status(PORT)?
            );
            Ok(())
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let crashes = crashing.join().expect("the thread doesn't panic")?;
        ensure!(crashes > 2, "only {crashes} crashes");
        found
    })?;
    attach.detach()
}

/// Ends a server and its workers, whose listeners are gone with them.
fn end(mut server: Server) -> anyhow::Result<()> {
    server.process.end(Signal::KILL)?;
    let gone = || TcpStream::connect(local(PORT)).is_err();
    ensure!(eventually(NOTICED, gone), "its workers still listen");
    Ok(())
}
