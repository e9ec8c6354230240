//! SIGHUP executes steer's file again, which may be a newer one: nothing is unsteered meanwhile.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_common::names::LAYOUT;
use steer_tests::{
    PORT,
    census::{self, Census},
    fixture::with_workers,
    isolate::{isolate, leftovers},
    process::eventually,
    steer::{Attach, binary, code, nothing_is_left, status, steer},
    texts,
    workers::{self, Worker, local},
};
use steer_user::steering::reload::layout_in;

const PATIENCE: Duration = Duration::from_secs(5);

/// Where the file is that steer was started from.
const FILE: &str = "/run/steer-copy";

/// Puts a file in the place of the one that steer was started from.
fn put(content: &[u8]) -> anyhow::Result<()> {
    let newer = Path::new("/run/steer-newer");
    fs::write(newer, content)?;
    fs::set_permissions(newer, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(newer, FILE)?)
}

fn put_steer() -> anyhow::Result<()> {
    put(&fs::read(binary()?)?)
}

fn put_script(script: &str) -> anyhow::Result<()> {
    put(format!("#!/bin/sh\n{script}\n").as_bytes())
}

/// A steer that was started from [`FILE`].
fn start() -> anyhow::Result<Attach> {
    put_steer()?;
    Attach::start_file(Path::new(FILE), PORT, "rr", &[])
}

/// Whether SIGHUP executes the file: a steer says that it steers as soon as it does.
fn reloads(attach: &mut Attach) -> anyhow::Result<()> {
    hang_up(attach.pid())?;
    attach.wait_line(texts::attach::STEERING).map(|_line| ())
}

/// The processes that a process has started and not waited for.
fn children(pid: u32) -> anyhow::Result<String> {
    Ok(fs::read_to_string(format!(
        "/proc/{pid}/task/{pid}/children"
    ))?)
}

fn hang_up(pid: u32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid as i32).context("a pid isn't 0")?;
    Ok(kill_process(pid, Signal::HUP)?)
}

/// What a process executes.
fn file_of(pid: u32) -> anyhow::Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/exe"))?
        .to_string_lossy()
        .into_owned())
}

#[test]
#[ignore = "privileged"]
fn a_newer_file_takes_over_without_a_gap() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    put_steer()?;
    let mut attach = Attach::start_file(Path::new(FILE), PORT, "least", &[])?;
    let pid = attach.pid();
    // What a command has changed meanwhile stays.
    let changed = steer(["policy", "--port", "3000", "rr"])?;
    ensure!(changed.code == Some(0), "{changed:?}");
    // An upgrade puts another file in the place of the first.
    put_steer()?;
    ensure!(file_of(pid)?.ends_with("(deleted)"));

    let pids = workers::pids(&workers);
    let done = AtomicBool::new(false);
    let census = thread::scope(|scope| {
        let load = scope.spawn(|| -> anyhow::Result<Census> {
            let mut all = Census::default();
            while !done.load(Ordering::Relaxed) {
                let round = census::one_by_one(local(PORT), 30)?;
                // Turns go on where they were.
                round.exactly(&pids, 10)?;
                all.sent += round.sent;
            }
            Ok(all)
        });
        let outcome = (|| {
            for _ in 0..5 {
                hang_up(pid)?;
                // A second one while it is being done changes nothing.
                hang_up(pid)?;
                attach.wait_line(texts::attach::STEERING)?;
            }
            Ok(())
        })();
        thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        let census = load.join().expect("the thread doesn't panic");
        outcome.and(census)
    })?;
    ensure!(census.sent > 100);
    ensure!(file_of(pid)? == FILE);
    let seen = status(PORT)?;
    ensure!(
        seen.policy == "rr" && seen.groups[0].hashed == 0,
        "{seen:?}"
    );

    // The new one follows as the old one did.
    let _fourth = Worker::start("127.0.0.1:3000", &[])?;
    ensure!(eventually(PATIENCE, || status(PORT)
        .is_ok_and(|seen| seen.live().count() == 4)));
    let ended = attach.end(Signal::TERM)?;
    ensure!(ended.success(), "{ended}");
    fs::remove_file(FILE)?;
    ensure!(leftovers()?.is_empty(), "{:?}", leftovers()?);
    Ok(())
}

/// What the new file is, and what is said of it.
const REFUSED: [(&str, &str); 6] = [
    ("exit 3", texts::reload::ENDED_WITH_3),
    // Any program that ends well.
    ("exit 0", texts::reload::NO_STEER),
    ("echo steer 0.1.0", texts::reload::NO_STEER),
    ("echo can resume, with layout 1", texts::reload::OLDER),
    // One from before there was the question.
    (
        "echo \"error: unexpected argument '--can-resume' found\" >&2; exit 2",
        texts::reload::UNEXPECTED_ARGUMENT,
    ),
    // It lacks what systemd, or the file's own capabilities, gave the former one.
    (
        "exec setpriv --bounding-set -bpf,-sys_admin \"$STEER\" \"$@\"",
        texts::reload::NOT_PERMITTED,
    ),
];

#[test]
#[ignore = "privileged"]
fn what_can_not_take_over_is_not_executed() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let mut attach = start()?;
    let pid = attach.pid();
    let steers = || -> anyhow::Result<()> {
        ensure!(census::takes_turns(local(PORT), workers.len())?);
        ensure!(status(PORT)?.loader_pid == Some(pid));
        ensure!(children(pid)?.is_empty(), "{}", children(pid)?);
        Ok(())
    };
    for (script, why) in REFUSED {
        let steer = binary()?;
        put_script(&format!("STEER={}\n{script}", steer.display()))?;
        hang_up(pid)?;
        let line = attach.wait_line(&texts::reload::not_reloaded_file(FILE))?;
        ensure!(line.contains(why), "{script}: {line}");
        steers()?;
    }
    fs::set_permissions(FILE, fs::Permissions::from_mode(0o644))?;
    hang_up(pid)?;
    attach.wait_line(&texts::reload::doesnt_run(FILE))?;
    steers()?;
    fs::remove_file(FILE)?;
    hang_up(pid)?;
    attach.wait_line(&texts::reload::doesnt_run(FILE))?;
    steers()?;
    put_steer()?;
    reloads(&mut attach)?;
    steers()?;
    attach.detach()
}

/// Of the two it is the new one that knows whether it can read what is there.
#[test]
#[ignore = "privileged"]
fn a_steer_tells_which_layouts_it_can_take_over() -> anyhow::Result<()> {
    isolate()?;
    let asked = |layout: u32| {
        let layout = layout.to_string();
        steer([
            "attach",
            "--port",
            "3000",
            "--resumes=7",
            "--can-resume",
            &layout,
        ])
    };
    for layout in [LAYOUT - 1, LAYOUT] {
        let can = asked(layout)?;
        ensure!(can.code == Some(0), "{can:?}");
        ensure!(layout_in(&can.stdout) == Some(LAYOUT), "{can:?}");
    }
    for (layout, why) in [
        (LAYOUT + 1, texts::reload::NEWER_MAPS),
        (LAYOUT - 2, texts::reload::FORGOTTEN_MAPS),
    ] {
        let refused = asked(layout)?;
        ensure!(refused.code == Some(code::HELD), "{refused:?}");
        ensure!(refused.stderr.contains(why), "{refused:?}");
    }
    ensure!(leftovers()?.is_empty(), "{:?}", leftovers()?);
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_file_that_hangs_keeps_steer_from_nothing() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    let mut attach = start()?;
    let pid = attach.pid();
    put_script("sleep 1000 & sleep 1000")?;
    hang_up(pid)?;
    ensure!(eventually(PATIENCE, || children(pid)
        .is_ok_and(|some| !some.is_empty())));
    // A worker that comes meanwhile is followed.
    let _third = Worker::start("127.0.0.1:3000", &[])?;
    ensure!(eventually(PATIENCE, || status(PORT)
        .is_ok_and(|seen| seen.live().count() == 3)));
    ensure!(!children(pid)?.is_empty());
    // It has its time, and is ended then.
    let line = attach.wait_line(&texts::reload::not_reloaded())?;
    ensure!(line.contains(texts::reload::TOO_LATE), "{line}");
    // It was killed; on a slow machine steer has still to take note of that.
    ensure!(
        eventually(PATIENCE, || children(pid).is_ok_and(|some| some.is_empty())),
        "{}",
        children(pid)?
    );
    hang_up(pid)?;
    ensure!(eventually(PATIENCE, || children(pid)
        .is_ok_and(|some| !some.is_empty())));
    let asked = children(pid)?;
    attach.detach()?;
    ensure!(eventually(PATIENCE, || !is_there(&asked)), "{asked}");
    fs::remove_file(FILE)?;
    nothing_is_left(PORT, 3)
}

fn is_there(pids: &str) -> bool {
    let mut pids = pids.split_whitespace();
    pids.any(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true))
}

#[test]
#[ignore = "privileged"]
fn the_file_is_the_one_that_the_path_names_then() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    for version in ["v1", "v2"] {
        fs::create_dir(format!("/run/{version}"))?;
        fs::copy(binary()?, format!("/run/{version}/steer"))?;
    }
    let point_to = |version: &str| -> anyhow::Result<()> {
        symlink(version, "/run/next")?;
        Ok(fs::rename("/run/next", "/run/current")?)
    };
    // By the whole path, by one from the directory in which it is started, and by name.
    for name in ["/run/current/steer", "current/steer", "steer"] {
        point_to("v1")?;
        let mut command = Command::new("/run/current/steer");
        command.arg0(name).args(["attach", "--port", "3000"]);
        command
            .current_dir("/run")
            .env("PATH", "/nowhere:/run/current");
        let mut attach = Attach::spawn_command(command)?;
        attach.wait_line(texts::attach::STEERING)?;
        ensure!(file_of(attach.pid())? == "/run/v1/steer");
        point_to("v2")?;
        reloads(&mut attach)?;
        ensure!(file_of(attach.pid())? == "/run/v2/steer", "{name}");
        point_to("v1")?;
        reloads(&mut attach)?;
        ensure!(file_of(attach.pid())? == "/run/v1/steer", "{name}");
        attach.detach()?;
    }
    Ok(())
}

/// The rounds of a test whose outcome is a matter of moments.
const ROUNDS: u32 = 12;

#[test]
#[ignore = "privileged"]
fn a_stop_at_any_moment_of_a_reload_stops() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let mut attach = start()?;
    let begun = Instant::now();
    reloads(&mut attach)?;
    let whole = begun.elapsed();
    attach.detach()?;
    for round in 0..ROUNDS {
        let mut attach = start()?;
        hang_up(attach.pid())?;
        thread::sleep(whole * round / (ROUNDS - 2));
        let signal = if round % 2 == 0 {
            Signal::TERM
        } else {
            Signal::INT
        };
        let ended = attach.end(signal)?;
        ensure!(ended.success(), "round {round}: {ended}: {}", attach.said());
        fs::remove_file(FILE)?;
        nothing_is_left(PORT, workers.len()).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// How many lines it has said.
fn lines(attach: &mut Attach) -> usize {
    attach.said().lines().count()
}

/// Nobody else gets the port in between, and `steer detach` finds whom to stop.
#[test]
#[ignore = "privileged"]
fn the_port_is_held_all_the_while() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let mut attach = start()?;
    let pid = attach.pid();
    for round in 0..4 {
        hang_up(pid)?;
        let before = lines(&mut attach);
        loop {
            let holder = status(PORT)?.loader_pid;
            ensure!(holder == Some(pid), "round {round}: {holder:?}");
            if lines(&mut attach) > before {
                break;
            }
        }
    }
    hang_up(pid)?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    let ended = attach.wait()?;
    ensure!(ended.success(), "{ended}: {}", attach.said());
    fs::remove_file(FILE)?;
    nothing_is_left(PORT, workers.len())
}

/// What is there but can't be steered is no reason to end for one that has lived with it.
#[test]
#[ignore = "privileged"]
fn a_reload_while_nothing_can_be_steered() -> anyhow::Result<()> {
    isolate()?;
    let mut attach = Attach::spawn(PORT, "rr", &[])?;
    attach.wait_line(texts::attach::WAITING_FOR_LISTENER)?;
    // Without SO_REUSEPORT.
    let listener = TcpListener::bind(local(PORT))?;
    attach.wait_line(&texts::warning(""))?;
    hang_up(attach.pid())?;
    attach.wait_line(&texts::warning(""))?;
    drop(listener);
    let _workers = workers::start(2, "127.0.0.1:3000")?;
    attach.wait_line(texts::attach::STEERING)?;
    attach.detach()
}
