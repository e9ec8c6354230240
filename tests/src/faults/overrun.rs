//! Events that find the ring buffer full, because the loader doesn't read it.

use std::{thread, time::Duration};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use steer_user::sys::listening::{ListenOptions, listen};

use super::{Row, load::Load};
use crate::{
    PORT, census,
    steer::{Attach, status_when},
    texts,
    workers::{self, Worker, local},
};

/// Listeners that come and go: two events each, of which the ring buffer takes some 1,600.
const LISTENERS: usize = 2000;

const RATE: u32 = 200;

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new("steer, rr");
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    let mut attach = Attach::start(PORT, "rr", &[])?;
    let loader = Pid::from_raw(attach.pid() as i32).context("a pid isn't 0")?;
    let load = Load::start(RATE);
    kill_process(loader, Signal::STOP)?;
    // On another address of the port, so that no connection ends there.
    let elsewhere = ListenOptions::new(([127, 0, 0, 2], PORT).into());
    for _ in 0..LISTENERS {
        drop(listen(&elsewhere)?);
    }
    let load = load.around(workers.remove(0), &mut row)?;
    for _ in 0..2 {
        workers.push(Worker::start("127.0.0.1:3000", &[])?);
    }
    thread::sleep(Duration::from_millis(500));
    kill_process(loader, Signal::CONT)?;
    let mut wanted = workers::pids(&workers);
    wanted.sort_unstable();
    let followed = status_when(PORT, |seen| {
        let mut live: Vec<u32> = seen.live().map(|worker| worker.pid).collect();
        live.sort_unstable();
        live == wanted
    });
    load.finish(&mut row)?;
    let census = census::one_by_one(local(PORT), 200)?;
    let exact = census.exactly(&workers::pids(&workers), 50);
    row.add_census(census);
    row.check(
        followed.is_ok(),
        "within 3 s of SIGCONT the maps equal the listeners: one left, two came",
    );
    row.check(exact.is_ok(), "from then on each gets exactly its turns");
    let said = attach.said();
    row.check(
        said.contains(&texts::warning(texts::attach::EVENTS_LOST)),
        format!("says \"{}\"", texts::attach::EVENTS_LOST),
    );
    row.check_all_served();
    attach.detach()?;
    Ok(vec![row])
}
