//! The bpffs unmounted under steer.

use std::{thread, time::Duration};

use anyhow::Context as _;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};

use super::{Row, load::Load};
use crate::{
    PORT,
    census::{self, takes_turns},
    isolate::leftovers,
    process::eventually,
    steer::{Attach, code, steer},
    texts,
    workers::{self, Worker, local},
};

const BPFFS: &str = "/sys/fs/bpf";

const RATE: u32 = 200;

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new("steer, rr");
    // Over the one that is there, so that an empty one is seen afterwards.
    let flags = MountFlags::empty();
    mount("bpf", BPFFS, "bpf", flags, None).context("failed to mount a bpffs")?;
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    let mut attach = Attach::start(PORT, "rr", &[])?;
    let load = Load::start(RATE);
    thread::sleep(Duration::from_millis(500));
    unmount(BPFFS, UnmountFlags::DETACH).context("failed to unmount the bpffs")?;
    let warned = attach.wait_line(&texts::warning(texts::attach::PINS_GONE));
    let status = steer(["status", "--port", "3000"])?;
    // Still followed: one leaves, two come.
    let load = load.around(workers.remove(0), &mut row)?;
    for _ in 0..2 {
        workers.push(Worker::start("127.0.0.1:3000", &[])?);
    }
    thread::sleep(Duration::from_millis(500));
    let pid = Pid::from_raw(attach.pid() as i32).context("a pid isn't 0")?;
    kill_process(pid, Signal::HUP)?;
    let not_reloaded = attach.wait_line(&texts::reload::not_reloaded());
    load.finish(&mut row)?;
    let pids = workers::pids(&workers);
    let census = census::one_by_one(local(PORT), 200)?;
    let exact = census.exactly(&pids, 50);
    row.add_census(census);
    attach.detach()?;
    let hashed = eventually(PATIENCE, || {
        takes_turns(local(PORT), workers.len()).is_ok_and(|turns| !turns)
    });
    row.check_all_served();
    row.check(
        warned.is_ok(),
        format!("says \"{}\" and what to do", texts::attach::PINS_GONE),
    );
    row.check(
        status.code == Some(code::NOTHING),
        "`steer status` finds nothing",
    );
    row.check(
        exact.is_ok(),
        "goes on following: one left, two came, each gets exactly its turns",
    );
    row.check(not_reloaded.is_ok(), "doesn't reload at SIGHUP");
    let left = leftovers()?;
    row.check(
        hashed && left.is_empty(),
        "SIGTERM detaches all the same, and leaves nothing",
    );
    Ok(vec![row])
}
