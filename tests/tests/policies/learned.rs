//! `least` learns how long the workers' jobs take, from what ends and nothing else, and knows what waits for them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT,
    census::{self, Census},
    fixture::{steered, with_workers},
    isolate::isolate,
    patience::{patience, slowed},
    process::{Output, Process},
    skip::{Skip, skip},
    status::Jobs,
    steer::{Attach, status, status_when, steer},
    texts,
    workers::local,
};
use steer_user::demo::client;

const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is kept alive.
struct Kept(TcpStream);

impl Kept {
    fn open() -> anyhow::Result<Self> {
        let stream = TcpStream::connect(local(PORT))?;
        stream.set_read_timeout(Some(patience(PATIENCE)))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    fn send(&mut self, path: &str) -> anyhow::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: steer\r\n\r\n");
        Ok(self.0.write_all(request.as_bytes())?)
    }

    /// The pid that is answered.
    fn answer(&mut self) -> anyhow::Result<u32> {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") || !answer.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        // The body's line follows the headers' end.
        if answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            while byte != [b'\n'] {
                self.0.read_exact(&mut byte)?;
                answer.extend(byte);
            }
        }
        let text = String::from_utf8(answer)?;
        let pid = text.lines().last().context("an answer")?;
        Ok(pid.parse()?)
    }

    fn ask(&mut self, path: &str) -> anyhow::Result<u32> {
        self.send(path)?;
        self.answer()
    }
}

fn block(ms: u32) -> String {
    format!("/block?ms={ms}")
}

/// The pid that a connection of its own gets.
fn ask(path: &str) -> anyhow::Result<u32> {
    let target = client::Target {
        path: path.to_owned(),
        patience: patience(PATIENCE),
        ..census::root(local(PORT))
    };
    let mut census = Census::default();
    census.add(1, &client::fire(&target, 1)?);
    let served = census.served.keys().next().copied();
    served.with_context(|| format!("{path}: {census:?}"))
}

/// Lets the group learn of so many jobs of `ms` milliseconds, all asked for at once.
fn teach(ms: u32, count: usize) -> anyhow::Result<()> {
    let asked: Vec<_> = (0..count)
        .map(|_| thread::spawn(move || ask(&block(ms))))
        .collect();
    for thread in asked {
        thread.join().expect("the thread doesn't panic")?;
    }
    Ok(())
}

fn jobs() -> anyhow::Result<Jobs> {
    let seen = status(PORT)?;
    let group = seen.groups.into_iter().next().context("a group")?;
    Ok(group.jobs)
}

/// Has only this worker selected.
fn only(pid: u32, others: &[u32]) -> anyhow::Result<()> {
    command("undrain", pid)?;
    others.iter().try_for_each(|other| command("drain", *other))
}

fn command(name: &str, pid: u32) -> anyhow::Result<()> {
    let done = steer([name, "--port", "3000", "--pid", &pid.to_string()])?;
    ensure!(done.code == Some(0), "{name}: {done:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn what_took_how_long_is_learned_and_outlives_steer() -> anyhow::Result<()> {
    let (_workers, mut attach) = steered(2, "least", &[])?;
    ensure!(jobs()?.learned == 0 && jobs()?.mean_ms.is_none());
    let long = slowed(70);
    for _ in 0..12 {
        ask("/")?;
    }
    for _ in 0..4 {
        ask(&block(long))?;
    }
    // The last job of a connection that is open is learned when the next one begins.
    let mut kept = Kept::open()?;
    for _ in 0..5 {
        kept.ask(&block(long))?;
    }
    drop(kept);
    // So is that of one that is closed: each worker begins another one.
    for _ in 0..10 {
        ask("/")?;
    }
    let learned = jobs()?;
    ensure!(
        (21..31).contains(&learned.learned) && learned.remembered == learned.learned,
        "{learned:?}"
    );
    let (p50, p90) = learned.p50_ms.zip(learned.p90_ms).context("quantiles")?;
    let mean = learned.mean_ms.context("a mean")?;
    let long = f64::from(long);
    // A worker may be interrupted, so there is no upper bound; but nine are the long ones.
    ensure!(
        p90 >= long && mean >= 9.0 * long / learned.learned as f64,
        "{learned:?}"
    );
    ensure!(p50 < long, "{learned:?}");
    let table = steer(["status", "--port", "3000"])?.stdout;
    let line = texts::status::jobs_learned(learned.learned);
    ensure!(table.contains(&line), "{table}");

    attach.end(Signal::KILL)?;
    let attach = Attach::start(PORT, "least", &[])?;
    ensure!(jobs()?.learned == learned.learned, "{:?}", jobs()?);
    for _ in 0..5 {
        ask("/")?;
    }
    ensure!(jobs()?.learned > learned.learned, "{:?}", jobs()?);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn other_work_is_learned_and_the_former_forgotten() -> anyhow::Result<()> {
    let (_workers, attach) = steered(2, "least", &[])?;
    let long = slowed(150);
    for _ in 0..5 {
        ask(&block(long))?;
    }
    ensure!(jobs()?.mean_ms >= Some(f64::from(long)), "{:?}", jobs()?);
    let mut kept = Kept::open()?;
    for _ in 0..520 {
        kept.ask("/")?;
    }
    let learned = jobs()?;
    ensure!(
        learned.learned >= 520 && learned.remembered <= 512,
        "{learned:?}"
    );
    ensure!(
        learned.mean_ms < Some(f64::from(long) / 10.0),
        "{learned:?}"
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_request_that_is_given_up_teaches_nothing() -> anyhow::Result<()> {
    let (_workers, attach) = steered(1, "least", &[])?;
    for _ in 0..3 {
        let mut kept = Kept::open()?;
        kept.send(&block(slowed(300)))?;
        thread::sleep(Duration::from_millis(slowed(150).into()));
        // It is reset while the worker is at it.
        socket2::SockRef::from(&kept.0).set_linger(Some(Duration::ZERO))?;
    }
    // The worker is through with all of them then.
    ask("/")?;
    ask("/")?;
    let learned = jobs()?;
    ensure!(learned.learned >= 1, "{learned:?}");
    ensure!(learned.p99_ms < Some(f64::from(slowed(140))), "{learned:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn what_waits_while_the_loop_is_free_teaches_nothing() -> anyhow::Result<()> {
    const PYTHON: Skip = Skip::Program {
        name: "python3",
        package: "python3",
    };
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("what_waits_while_the_loop_is_free_teaches_nothing", &PYTHON);
    }
    isolate()?;
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut command = Command::new("python3");
        command
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/servers/asynchronous.py"
            ))
            .arg(PORT.to_string())
            .stdin(Stdio::null());
        let mut worker = Process::spawn(command, Output::Stdout)?;
        worker.wait_line("listening", patience(PATIENCE))?;
        workers.push(worker);
    }
    let attach = Attach::start(PORT, "least", &[])?;
    for _ in 0..3 {
        let slow = thread::spawn(|| ask("/1600"));
        status_when(PORT, |seen| seen.live().any(|worker| worker.active == 1))?;
        // Selections until it answers, every other of which looks at it first. One of them sees its loop
        // waiting, however busy this machine is.
        while !slow.is_finished() {
            thread::sleep(Duration::from_millis(100));
            ask("/0")?;
        }
        slow.join().expect("the thread doesn't panic")?;
    }
    let learned = jobs()?;
    ensure!(learned.learned >= 15, "{learned:?}");
    ensure!(learned.p99_ms < Some(1500.0), "{learned:?}");
    attach.detach()
}

/// Both are busy. One began first, but two more requests wait there on connections that are kept alive.
#[test]
#[ignore = "privileged"]
fn requests_that_wait_on_open_connections_count() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let [first, second] = [workers[0].pid(), workers[1].pid()];
    let attach = Attach::start(PORT, "least", &[])?;
    let job = slowed(600);
    teach(job, 4)?;
    only(first, &[second])?;
    let mut kept = [Kept::open()?, Kept::open()?, Kept::open()?];
    for connection in &mut kept {
        ensure!(connection.ask("/")? == first);
    }
    command("undrain", second)?;
    let mut told = 0;
    for _ in 0..10 {
        let began = Instant::now();
        for connection in &mut kept {
            connection.send(&block(job))?;
            // So that the first one is in hand before the others come.
            thread::sleep(Duration::from_millis(slowed(20).into()));
        }
        // It goes to the idle one.
        let other = thread::spawn(move || ask(&block(job)));
        thread::sleep(Duration::from_millis(slowed(40).into()));
        let quick = thread::spawn(|| ask("/"));
        thread::sleep(Duration::from_millis(slowed(20).into()));
        // Where this machine did something else meanwhile, they aren't both busy.
        let in_time = began.elapsed() < Duration::from_millis((job / 4 * 3).into());
        let other = other.join().expect("the thread doesn't panic")?;
        let quick = quick.join().expect("the thread doesn't panic")?;
        for connection in &mut kept {
            ensure!(connection.answer()? == first);
        }
        if in_time && other == second {
            ensure!(quick == second, "it went where three wait");
            told += 1;
        }
        if told == 2 {
            return attach.detach();
        }
    }
    anyhow::bail!("this machine is too busy for it")
}

/// A client has reset its connection, and its worker goes on with the job: its age counts from where it began,
/// not from the next connection that comes.
#[test]
#[ignore = "privileged"]
fn a_job_whose_client_is_gone_keeps_its_age() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let [first, second] = [workers[0].pid(), workers[1].pid()];
    let attach = Attach::start(PORT, "least", &[])?;
    let job = slowed(600);
    let millis = |ms: u32| Duration::from_millis(slowed(ms).into());
    teach(job, 2)?;
    teach(job, 2)?;
    let mut told = 0;
    for _ in 0..10 {
        only(first, &[second])?;
        let began = Instant::now();
        let mut given_up = Kept::open()?;
        given_up.send(&block(job))?;
        thread::sleep(millis(20));
        socket2::SockRef::from(&given_up.0).set_linger(Some(Duration::ZERO))?;
        drop(given_up);
        command("undrain", second)?;
        thread::sleep(millis(50));
        // The idle one's, then that of whoever is done first, then the other one's.
        let mut asked = Vec::new();
        for _ in 0..3 {
            asked.push(thread::spawn(move || ask(&block(job))));
            thread::sleep(millis(50));
        }
        let last = thread::spawn(|| ask("/"));
        thread::sleep(millis(20));
        let in_time = began.elapsed() < Duration::from_millis((job / 4 * 3).into());
        let mut pids = Vec::new();
        for thread in asked {
            pids.push(thread.join().expect("the thread doesn't panic")?);
        }
        let last = last.join().expect("the thread doesn't panic")?;
        if in_time && pids == [second, first, second] {
            ensure!(
                last == first,
                "the job that nobody waits for any more looked too young"
            );
            told += 1;
        }
        if told == 2 {
            return attach.detach();
        }
    }
    anyhow::bail!("this machine is too busy for it")
}

/// Connections that are kept in reserve and say nothing make their worker no less idle.
#[test]
#[ignore = "privileged"]
fn connections_that_say_nothing_dont_count() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let [holder, other] = [workers[0].pid(), workers[1].pid()];
    let attach = Attach::start(PORT, "least", &[])?;
    for _ in 0..4 {
        ask(&block(slowed(50)))?;
    }
    only(holder, &[other])?;
    let reserve = [Kept::open()?, Kept::open()?, Kept::open()?];
    status_when(PORT, |seen| seen.live().any(|worker| worker.active == 3))?;
    command("undrain", other)?;
    let mut told = 0;
    for _ in 0..5 {
        // It goes to the one without connections.
        let busy = thread::spawn(|| ask(&block(slowed(1000))));
        status_when(PORT, |seen| {
            seen.live().filter(|worker| worker.active > 0).count() == 2
        })?;
        for _ in 0..3 {
            let quick = ask("/")?;
            if busy.is_finished() {
                break;
            }
            ensure!(quick == holder, "it went to the busy one");
            told += 1;
        }
        ensure!(busy.join().expect("the thread doesn't panic")? == other);
    }
    ensure!(told > 0, "the busy one was done before anybody else came");
    drop(reserve);
    attach.detach()
}
