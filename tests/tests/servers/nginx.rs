//! Real nginx, whose master holds every worker's listener too.

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_tests::{
    PORT, Shot, Target,
    census::{self, Census},
    process::{Output, Process, eventually},
    servers::{self, Room},
    skip::skip,
    steer::{Attach, code, status, status_when, steer},
    texts,
    workers::local,
};
use steer_user::demo::client;

/// Workers, as in `nginx.conf`.
const WORKERS: usize = 3;

/// The time in which every connection must be answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// From one connection to the next while a worker is replaced.
const PACE: Duration = Duration::from_millis(10);

/// How long the replacement is watched.
const WATCHED: Duration = Duration::from_secs(6);

/// How often nginx is told to read its configuration again: what goes wrong there is a matter of luck.
const RELOADS: usize = 12;

/// How long a master that doesn't replace its worker is kept from it.
const LATE: Duration = Duration::from_secs(5);

/// The time in which steer must have noticed that nobody polls a listener. It takes tens of
/// milliseconds where the machine isn't busy with other things.
const NOTICED: Duration = Duration::from_millis(1500);

/// The time in which what is connected after that must be answered. What waited for the late master
/// would take longer.
const QUICK: Duration = Duration::from_millis(2500);

#[test]
#[ignore = "privileged"]
fn rr_gives_three_workers_exactly_the_same() -> anyhow::Result<()> {
    let nginx = match servers::program("nginx", "nginx") {
        Ok(nginx) => nginx,
        Err(reason) => return skip("rr_gives_three_workers_exactly_the_same", &reason),
    };
    let _room = Room::enter()?;
    let _master = start(&nginx, "127.0.0.1:3000 reuseport")?;
    let pids = servers::pids(local(PORT), WORKERS)?;
    let attach = Attach::start(PORT, "rr", &[])?;
    census::one_by_one(local(PORT), 900)?.exactly(&pids, 300)?;
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_killed_worker_is_replaced_and_no_connection_hangs() -> anyhow::Result<()> {
    match servers::program("nginx", "nginx") {
        Ok(nginx) => replace_a_worker(&nginx, Duration::ZERO),
        Err(reason) => skip(
            "a_killed_worker_is_replaced_and_no_connection_hangs",
            &reason,
        ),
    }
}

#[test]
#[ignore = "privileged"]
fn a_listener_that_nobody_polls_gets_nothing() -> anyhow::Result<()> {
    match servers::program("nginx", "nginx") {
        Ok(nginx) => replace_a_worker(&nginx, LATE),
        Err(reason) => skip("a_listener_that_nobody_polls_gets_nothing", &reason),
    }
}

#[test]
#[ignore = "privileged"]
fn one_listener_for_all_workers_is_refused() -> anyhow::Result<()> {
    let nginx = match servers::program("nginx", "nginx") {
        Ok(nginx) => nginx,
        Err(reason) => return skip("one_listener_for_all_workers_is_refused", &reason),
    };
    let _room = Room::enter()?;
    let _master = start(&nginx, "127.0.0.1:3000")?;
    let refused = steer(["attach", "--port", "3000", "--no-wait"])?;
    ensure!(refused.code == Some(code::UNSTEERABLE), "{refused:?}");
    for part in ["127.0.0.1:3000"].iter().chain(&texts::refused::NGINX) {
        ensure!(refused.stderr.contains(*part), "no {part:?} in {refused:?}");
    }
    ensure!(refused.stderr.lines().count() == 1, "{refused:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn every_worker_has_its_share_after_each_reload() -> anyhow::Result<()> {
    let nginx = match servers::program("nginx", "nginx") {
        Ok(nginx) => nginx,
        Err(reason) => return skip("every_worker_has_its_share_after_each_reload", &reason),
    };
    let _room = Room::enter()?;
    let master = start(&nginx, "127.0.0.1:3000 reuseport")?;
    let mut before = servers::pids(local(PORT), WORKERS)?;
    let attach = Attach::start(PORT, "rr", &[])?;
    for reload in 0..RELOADS {
        // An old worker with an open connection goes on until that ends, beside the new ones.
        let open = TcpStream::connect(local(PORT))?;
        master.signal(Signal::HUP)?;
        let seen = status_when(PORT, |seen| {
            let mut live = seen.live();
            seen.live().count() == WORKERS && live.all(|worker| !before.contains(&worker.pid))
        })
        .with_context(|| format!("reload {reload}"))?;
        let mut after: Vec<u32> = seen.live().map(|worker| worker.pid).collect();
        after.sort_unstable();
        census::one_by_one(local(PORT), 60)?
            .exactly(&after, 20)
            .with_context(|| format!("reload {reload}: {:?}", status(PORT)))?;
        before = after;
        drop(open);
    }
    attach.detach()
}

/// Starts nginx and waits until it answers.
fn start(nginx: &Path, listen: &str) -> anyhow::Result<Process> {
    // `/run` is the test's own.
    let prefix = Path::new("/run/nginx");
    fs::create_dir(prefix)?;
    let config = fs::read_to_string(servers::file("nginx.conf"))?;
    fs::write(
        prefix.join("nginx.conf"),
        config.replace("listen LISTEN", &format!("listen {listen}")),
    )?;
    let mut command = Command::new(nginx);
    command
        .arg("-p")
        .arg(prefix)
        .args(["-c", "nginx.conf", "-e", "stderr"])
        .stdin(Stdio::null());
    let master = Process::spawn(command, Output::Stdout)?;
    let answers = || census::one_by_one(local(PORT), 1).is_ok_and(|census| census.answered() == 1);
    ensure!(
        eventually(Duration::from_secs(20), answers),
        "nginx doesn't answer"
    );
    Ok(master)
}

/// Kills a worker, whose listener the master keeps, and checks all that is connected from then on
/// until a new worker has been at work for a while. The master notices it `late`.
fn replace_a_worker(nginx: &Path, late: Duration) -> anyhow::Result<()> {
    let _room = Room::enter()?;
    let master = start(nginx, "127.0.0.1:3000 reuseport")?;
    let before = servers::pids(local(PORT), WORKERS)?;
    let attach = Attach::start(PORT, "rr", &[])?;
    census::one_by_one(local(PORT), 30)?.exactly(&before, 10)?;

    if !late.is_zero() {
        master.signal(Signal::STOP)?;
    }
    let victim = before[1];
    let pid = Pid::from_raw(victim as i32).context("no pid")?;
    kill_process(pid, Signal::KILL)?;
    let shots = watch(&master, late)?;

    let mut census = Census::default();
    for (_, shot) in &shots {
        census.add(1, std::slice::from_ref(shot));
    }
    ensure!(census.answered() == census.sent, "{census:?}");
    ensure!(census.sent > 100, "only {census:?}");
    for (at, shot) in &shots {
        ensure!(
            *at < NOTICED || shot.took < QUICK,
            "begun {at:?} after the worker's end: {shot:?}"
        );
    }

    let seen = status_when(PORT, |seen| {
        let live: Vec<u32> = seen.live().map(|worker| worker.pid).collect();
        live.len() == WORKERS && !live.contains(&victim)
    })?;
    let mut after: Vec<u32> = seen.live().map(|worker| worker.pid).collect();
    after.sort_unstable();
    census::one_by_one(local(PORT), 900)?.exactly(&after, 300)?;
    attach.detach()
}

/// Opens a connection every few milliseconds, none of which waits for another, and lets the master
/// go on after `late`. Returns when each was begun, and what became of it.
fn watch(master: &Process, late: Duration) -> anyhow::Result<Vec<(Duration, Shot)>> {
    let target = Target {
        patience: PATIENCE,
        ..census::root(local(PORT))
    };
    let begin = Instant::now();
    let mut running = Vec::new();
    let mut stopped = !late.is_zero();
    while begin.elapsed() < WATCHED {
        if stopped && begin.elapsed() >= late {
            master.signal(Signal::CONT)?;
            stopped = false;
        }
        let target = target.clone();
        let at = begin.elapsed();
        running.push((at, thread::spawn(move || client::fire(&target, 1))));
        thread::sleep(PACE);
    }
    let mut shots = Vec::with_capacity(running.len());
    for (at, thread) in running {
        let result = thread
            .join()
            .map_err(|_panic| anyhow!("a client panicked"))?;
        shots.extend(result?.into_iter().map(|shot| (at, shot)));
    }
    Ok(shots)
}
