//! steer in a pid namespace of its own, as in a container.

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT, census,
    contained::in_pid_namespace,
    fixture::with_workers,
    isolate::isolate,
    steer::{Attach, built, status_when},
    texts,
    workers::{self, local},
};

#[test]
#[ignore = "privileged"]
fn workers_that_it_does_not_see_are_left_alone() -> anyhow::Result<()> {
    let _workers = with_workers(3)?;
    let mut attach = Attach::spawn_command(in_pid_namespace(r#"exec "$1" attach --port 3000"#)?)?;
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
    let mut command = in_pid_namespace(
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
