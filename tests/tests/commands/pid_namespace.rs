//! steer in a pid namespace of its own, as in a container.

use std::process::Command;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT, census,
    isolate::isolate,
    process::{Output, Process},
    steer::{Attach, binary, built, code, nothing_is_left, run, status_when, steer},
    texts,
    workers::{self, local},
};

/// A shell in a pid namespace of its own, which ends with it.
fn inside(script: &str) -> anyhow::Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", script, "sh"]).arg(binary()?);
    Ok(command)
}

#[test]
#[ignore = "privileged"]
fn workers_that_it_does_not_see_are_left_alone() -> anyhow::Result<()> {
    isolate()?;
    let _workers = workers::start(3, "127.0.0.1:3000")?;
    let mut attach = Attach::spawn_command(inside(r#"exec "$1" attach --port 3000"#)?)?;
    attach.wait_line(&texts::attach::sees_no_process("127.0.0.1:3000"))?;
    let lost = census::takes_turns(local(PORT), 3)?;
    ensure!(!lost, "steered without seeing anybody");
    Ok(())
}

/// The kernel's list of open files is of the reader's pid namespace, in the numbers of that namespace.
#[test]
#[ignore = "privileged"]
fn workers_of_the_same_namespace_are_steered_by_their_pids_there() -> anyhow::Result<()> {
    isolate()?;
    // Outside, with a number that nobody has in there.
    let outside = workers::start(1, "127.0.0.2:3000")?;
    let worker = built("STEER_TEST_WORKER", "steer-test-worker")?;
    let mut command = inside(
        r#""$2" --bind 127.0.0.1:3000 >&2 & "$2" --bind 127.0.0.1:3000 >&2 & "$1" attach --port 3000"#,
    )?;
    command.arg(worker);
    let attach = Attach::spawn_command(command)?;
    let address = "127.0.0.1:3000";
    let seen = status_when(PORT, |seen| {
        let group = seen.group(address, false);
        group.is_some_and(|group| group.workers.len() == 2 && group.unsteered == 0)
    })?;
    let group = seen.group(address, false).context("no group")?;
    let mut pids: Vec<u32> = group.workers.iter().map(|worker| worker.pid).collect();
    pids.sort_unstable();
    // What a worker answers is its pid as it knows it.
    census::one_by_one(local(PORT), 20)?.exactly(&pids, 10)?;
    ensure!(pids.iter().all(|pid| *pid < 100), "{pids:?}");
    let other = seen.group("127.0.0.2:3000", false);
    ensure!(
        other.is_none_or(|group| group.workers.is_empty()),
        "{seen:?}"
    );
    drop((outside, attach));
    Ok(())
}

/// Its pid inside is another process's outside: it is that of the outside which counts.
#[test]
#[ignore = "privileged"]
fn detach_ends_the_steer_and_no_stranger() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut stranger = Process::spawn(sleep, Output::Stdout)?;
    let script = format!(
        r#"echo {} > /proc/sys/kernel/ns_last_pid; "$1" attach --port 3000 & echo "pid $!" >&2; wait $!; echo "ended $?" >&2"#,
        stranger.pid() - 1
    );
    let mut attach = Attach::spawn_command(inside(&script)?)?;
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
    isolate()?;
    let _workers = workers::start(3, "127.0.0.1:3000")?;
    let attach = Attach::start(3000, "rr", &[])?;
    let refused = run(inside(r#"exec "$1" detach --port 3000"#)?)?;
    ensure!(refused.code == Some(code::HELD), "{refused:?}");
    ensure!(
        refused
            .stderr
            .contains(texts::refused::ANOTHER_PID_NAMESPACE),
        "{refused:?}"
    );
    let refused = run(inside(r#"exec "$1" attach --port 3000"#)?)?;
    ensure!(refused.code == Some(code::HELD), "{refused:?}");
    let seen = run(inside(r#"exec "$1" status --port 3000 --json"#)?)?;
    ensure!(
        seen.stdout.contains(r#""loader_pid":null,"followed":true"#),
        "{seen:?}"
    );
    ensure!(census::takes_turns(local(PORT), 3)?, "not steered any more");
    attach.detach()
}
