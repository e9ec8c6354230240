//! SIGSTOP of a worker for longer than clients wait.

use std::{thread, time::Duration};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::{Row, load::Load};
use crate::{
    PORT,
    steer::{Attach, status, status_when},
    workers::{self, Worker},
};

const WORKERS: usize = 4;
const RATE: u32 = 200;

/// Two seconds more than clients wait.
const STOPPED: Duration = Duration::from_secs(7);

/// What goes before and after.
const AROUND: Duration = Duration::from_millis(500);

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    Ok(vec![steered("rr")?, steered("least")?, hash()?])
}

fn steered(policy: &str) -> anyhow::Result<Row> {
    let mut row = Row::new(format!("steer, {policy}"));
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, policy, &[])?;
    let load = Load::start(RATE);
    thread::sleep(AROUND);
    let victim = &workers[0];
    let of = |pid: u32| {
        let seen = status(PORT)?;
        let mut workers = seen.groups.into_iter().flat_map(|group| group.workers);
        workers
            .find(|worker| worker.pid == pid)
            .context("the worker isn't in the status")
    };
    signal(victim, Signal::STOP)?;
    thread::sleep(STOPPED / 2);
    let middle = of(victim.pid())?;
    thread::sleep(STOPPED / 2);
    let end = of(victim.pid())?;
    signal(victim, Signal::CONT)?;
    let back = status_when(PORT, |seen| {
        let mut live = seen.live();
        live.any(|worker| worker.pid == victim.pid() && worker.selected > end.selected)
    });
    load.finish(&mut row)?;
    attach.detach()?;
    row.check(
        middle.selected == end.selected && end.selected > 0,
        "ejected: from 3.5 s on it got nothing",
    );
    row.check(
        row.census.hung as u64 <= end.active,
        format!(
            "hung are none but of the {} that it had until then",
            end.active
        ),
    );
    row.check(back.is_ok(), "selected again within 3 s after SIGCONT");
    row.check(row.census.reset + row.census.refused == 0, "nothing reset");
    Ok(row)
}

fn hash() -> anyhow::Result<Row> {
    let mut row = Row::new("hash");
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let load = Load::start(RATE);
    thread::sleep(AROUND);
    signal(&workers[0], Signal::STOP)?;
    thread::sleep(STOPPED);
    signal(&workers[0], Signal::CONT)?;
    thread::sleep(AROUND);
    load.finish(&mut row)?;
    let late = row.later_than(Duration::from_secs(1));
    row.check(true, format!("{late} more answered after more than 1 s"));
    Ok(row)
}

fn signal(worker: &Worker, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(worker.pid() as i32).context("a pid isn't 0")?;
    Ok(kill_process(pid, signal)?)
}
