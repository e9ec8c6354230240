//! steer killed in a container that has its pins for itself: the program stays, and nothing of steer else.

use std::{path::Path, thread, time::Duration};

use anyhow::ensure;
use rustix::process::Signal;

use super::{Row, load::Load};
use crate::{
    PORT,
    census::{one_by_one, takes_turns},
    isolate::leftovers,
    steer::{Attach, code, steer},
    texts,
    workers::{self, Worker, local},
};

const RATE: u32 = 200;

/// Connections after which the program has met a worker that it doesn't know, in all but one of some
/// 300,000 runs: one of 32 is looked at, and a quarter of these is that worker's.
const MET: usize = 1600;

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    Ok(vec![attached_again()?, detached()?])
}

/// Has a steer steer that has the bpffs for itself, and kills it.
fn orphan() -> anyhow::Result<()> {
    let mut attach = Attach::start_contained(PORT, "rr", &[])?;
    attach.end(Signal::KILL)?;
    let pins = Path::new("/sys/fs/bpf/steer");
    ensure!(!pins.exists(), "its pins are here");
    Ok(())
}

fn attached_again() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr: attach");
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    let load = Load::start(RATE);
    orphan()?;
    thread::sleep(Duration::from_millis(300));
    load.finish(&mut row)?;
    let former = takes_turns(local(PORT), workers.len())?;
    let newcomer = Worker::start("127.0.0.1:3000", &[])?;
    let pid = newcomer.pid();
    workers.push(newcomer);
    row.add_census(one_by_one(local(PORT), MET)?);
    let census = one_by_one(local(PORT), 400)?;
    let share = census.served.get(&pid).copied().unwrap_or(0);
    row.add_census(census);
    let status = steer(["status", "--port", "3000"])?;
    let load = Load::start(RATE);
    let mut attach = Attach::start(PORT, "rr", &[])?;
    thread::sleep(Duration::from_millis(300));
    load.finish(&mut row)?;
    let said = attach.said();
    let turns = takes_turns(local(PORT), workers.len())?;
    attach.detach()?;
    let hashed = !takes_turns(local(PORT), workers.len())?;
    row.check_all_served();
    row.check(former, "the workers that it had take turns as before");
    row.check(
        (60..=140).contains(&share),
        format!("a new worker has its share by the hash: {share} of 400"),
    );
    row.check(
        status.code == Some(code::NOTHING) && status.stderr.contains(texts::refused::STEER_IS_GONE),
        "`steer status` says what is there, and what to do",
    );
    row.check(
        said.contains(texts::attach::TAKING_THE_PLACE_OF_PROGRAM) && turns,
        "a plain `steer attach` says so, and takes its place",
    );
    row.check(
        hashed && leftovers()?.is_empty(),
        "its detach leaves nothing",
    );
    Ok(row)
}

fn detached() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr: detach");
    let workers = workers::start(3, "127.0.0.1:3000")?;
    orphan()?;
    let steered = takes_turns(local(PORT), workers.len())?;
    let load = Load::start(RATE);
    let finished = steer(["detach", "--port", "3000"])?;
    thread::sleep(Duration::from_millis(300));
    load.finish(&mut row)?;
    let hashed = !takes_turns(local(PORT), workers.len())?;
    row.check_all_served();
    let left = leftovers()?;
    row.check(
        steered && finished.code == Some(0) && hashed && left.is_empty(),
        "`steer detach` ends it, and leaves nothing",
    );
    Ok(row)
}
