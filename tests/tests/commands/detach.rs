//! `steer detach` ends whoever follows the port and what a killed one has left, and nobody else.

use std::{process::Command, thread, time::Duration};

use anyhow::ensure;
use rustix::process::Signal;
use steer_tests::{
    PORT,
    census::takes_turns,
    contained::in_pid_namespace,
    fixture::{steered, with_workers},
    isolate::{isolate, leftovers},
    pins::pinned,
    process::{Output, Process},
    steer::{Attach, binary, code, nothing_is_left, run, steer},
    texts,
    workers::{self, local, local6},
};

const WORKERS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
#[ignore = "privileged"]
fn detach_from_outside() -> anyhow::Result<()> {
    let (_workers, mut attach) = steered(3, "rr", &[])?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    let ended = attach.wait()?;
    ensure!(ended.success(), "{ended}: {}", attach.said());
    nothing_is_left(PORT, 3)?;
    let again = steer(["detach", "--port", "3000"])?;
    ensure!(again.code == Some(code::NOTHING), "{again:?}");
    let words = texts::refused::nothing_attached(PORT);
    ensure!(texts::has_all(&again.stderr, &words), "{again:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn detach_works_without_a_loader() -> anyhow::Result<()> {
    let (_workers, mut attach) = steered(3, "least", &[])?;
    attach.end(Signal::KILL)?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    nothing_is_left(PORT, 3)
}

/// Both groups of a port have a program of a killed steer, only one of which has pins here.
#[test]
#[ignore = "privileged"]
fn detach_ends_what_has_pins_and_what_has_none() -> anyhow::Result<()> {
    isolate()?;
    let _workers = workers::start_both(WORKERS)?;
    let mut contained = Attach::start_contained(PORT, "rr", &["--bind", "::1"])?;
    contained.end(Signal::KILL)?;
    let mut attach = Attach::start(PORT, "rr", &["--bind", "127.0.0.1"])?;
    attach.end(Signal::KILL)?;
    ensure!(takes_turns(local(PORT), WORKERS)? && takes_turns(local6(PORT), WORKERS)?);
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    ensure!(!takes_turns(local(PORT), WORKERS)?, "still steered");
    ensure!(!takes_turns(local6(PORT), WORKERS)?, "still steered");
    ensure!(leftovers()?.is_empty(), "left behind: {:?}", leftovers()?);
    Ok(())
}

/// Where no process with a listener is to be seen nothing can be detached: that is said, and all is left as
/// it is, for one that sees them.
#[test]
#[ignore = "privileged"]
fn detach_says_where_it_sees_no_worker() -> anyhow::Result<()> {
    let (workers, mut attach) = steered(WORKERS, "rr", &["--keep"])?;
    attach.end(Signal::TERM)?;
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    command.arg(binary()?).args(["detach", "--port", "3000"]);
    let refused = run(command)?;
    ensure!(
        refused.code == Some(code::FAILURE)
            && refused.stderr.lines().count() == 1
            && refused
                .stderr
                .contains(texts::refused::IN_HOSTS_PID_NAMESPACE),
        "{refused:?}"
    );
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered any more");
    ensure!(steer(["status", "--port", "3000"])?.code == Some(0));
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    nothing_is_left(PORT, workers.len())
}

/// Its pid inside is another process's outside: it is that of the outside which counts.
#[test]
#[ignore = "privileged"]
fn detach_ends_the_steer_and_no_stranger() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut stranger = Process::spawn(sleep, Output::Stdout)?;
    let script = format!(
        r#"echo {} > /proc/sys/kernel/ns_last_pid; "$1" attach --port 3000 & echo "pid $!" >&2; wait $!; echo "ended $?" >&2"#,
        stranger.pid() - 1
    );
    let mut attach = Attach::spawn_command(in_pid_namespace(&script)?)?;
    attach.wait_line(&format!("pid {}", stranger.pid()))?;
    attach.wait_line(&texts::attach::warning_of("127.0.0.1:3000"))?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    attach.wait_line("ended 0")?;
    nothing_is_left(3000, workers.len())?;
    // It would have ended by then, and that would be how.
    let ended = stranger.end(Signal::KILL)?;
    ensure!(format!("{ended}").contains("SIGKILL"), "{ended}");
    Ok(())
}

/// From inside, the one outside isn't seen, and so not ended.
#[test]
#[ignore = "privileged"]
fn detach_ends_nobody_it_does_not_see() -> anyhow::Result<()> {
    let _workers = with_workers(3)?;
    let attach = Attach::start(3000, "rr", &[])?;
    let refused = run(in_pid_namespace(r#"exec "$1" detach --port 3000"#)?)?;
    ensure!(refused.code == Some(code::HELD), "{refused:?}");
    ensure!(
        refused
            .stderr
            .contains(texts::refused::ANOTHER_PID_NAMESPACE),
        "{refused:?}"
    );
    let refused = run(in_pid_namespace(r#"exec "$1" attach --port 3000"#)?)?;
    ensure!(refused.code == Some(code::HELD), "{refused:?}");
    let seen = run(in_pid_namespace(r#"exec "$1" status --port 3000 --json"#)?)?;
    ensure!(
        seen.stdout.contains(r#""loader_pid":null,"followed":true"#),
        "{seen:?}"
    );
    ensure!(takes_turns(local(PORT), 3)?, "not steered any more");
    attach.detach()
}

/// A starting steer looks whether killed ones have left something of any port, for a moment under the port's lock.
#[test]
#[ignore = "privileged"]
fn detach_ends_nobody_who_only_looks() -> anyhow::Result<()> {
    let workers = with_workers(WORKERS)?;
    Attach::start(PORT, "rr", &[])?.end(Signal::KILL)?;
    let mut looks = Command::new("flock");
    looks
        .arg("/sys/fs/bpf/steer")
        .arg("flock")
        .arg(pinned(PORT)?);
    looks.args(["sh", "-c", "echo locked; sleep 1"]);
    let mut looks = Process::spawn(looks, Output::Stdout)?;
    looks.wait_line("locked", PATIENCE)?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    let ended = looks.wait(PATIENCE)?;
    ensure!(ended.success(), "it was ended: {ended}");
    nothing_is_left(PORT, workers.len())
}

#[test]
#[ignore = "privileged"]
fn two_detach_what_a_killed_one_left() -> anyhow::Result<()> {
    let workers = with_workers(WORKERS)?;
    for _ in 0..6 {
        Attach::start(PORT, "rr", &[])?.end(Signal::KILL)?;
        let codes = thread::scope(|scope| {
            let detach = || Ok(steer(["detach", "--port", "3000"])?.code);
            let both: Vec<_> = (0..2).map(|_| scope.spawn(detach)).collect();
            let both = both.into_iter().map(|one| one.join().expect("no panic"));
            both.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let is_fine = |code: &Option<i32>| [Some(0), Some(code::NOTHING)].contains(code);
        ensure!(
            codes.contains(&Some(0)) && codes.iter().all(is_fine),
            "{codes:?}"
        );
        nothing_is_left(PORT, workers.len())?;
    }
    Ok(())
}
