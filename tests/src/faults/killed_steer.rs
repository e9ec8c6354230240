//! SIGKILL of steer right before each step by which it changes something: while it attaches, adds a
//! worker, detaches, and executes itself again.

use std::{
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

use super::{Row, load::Load};
use crate::{
    PORT,
    bpf::bpf,
    census::{self, takes_turns},
    process::eventually,
    steer::{binary, nothing_is_left, status, steer},
    texts,
    trace::{Traced, Vdso},
    workers::{self, Worker, local},
};

const RATE: u32 = 200;

const PATIENCE: Duration = Duration::from_secs(20);

/// Connections after each kill: that one of four workers gets none of them by the hash happens once
/// in a thousand million times.
const CONNECTIONS: usize = 80;

/// What steer is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    Attach,
    Join,
    Detach,
    Reload,
}

/// While it attaches.
pub(super) fn in_attach() -> anyhow::Result<Vec<Row>> {
    each_step(During::Attach)
}

/// While it adds a worker.
pub(super) fn in_join() -> anyhow::Result<Vec<Row>> {
    each_step(During::Join)
}

/// While it detaches.
pub(super) fn in_detach() -> anyhow::Result<Vec<Row>> {
    each_step(During::Detach)
}

/// While it executes its file again.
pub(super) fn in_reload() -> anyhow::Result<Vec<Row>> {
    each_step(During::Reload)
}

/// Kills it before each step.
fn each_step(during: During) -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new("steer, rr");
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    let mut killed = 0;
    let mut wrong = Vec::new();
    for step in 0.. {
        match one(during, step, &mut workers, &mut row) {
            Ok(None) => break,
            Ok(Some(_)) => killed += 1,
            Err(error) => wrong.push(format!("step {step}: {error:#}")),
        }
        ensure!(wrong.len() < 5, "{}", wrong.join("; "));
    }
    row.check_all_served();
    row.check(
        wrong.is_empty() && killed > 0,
        if wrong.is_empty() {
            format!(
                "killed before each of {killed} steps: every worker served, a plain `steer attach` \
                 steers again, and its detach leaves no file and no program"
            )
        } else {
            wrong.join("; ")
        },
    );
    Ok(vec![row])
}

/// Kills it once, and tells before what; none where it has fewer steps.
fn one(
    during: During,
    step: usize,
    workers: &mut Vec<Worker>,
    row: &mut Row,
) -> anyhow::Result<Option<String>> {
    let mut killed = attach()?;
    if during == During::Attach {
        killed.kill_at(Some(step));
    } else {
        killed.wait_line(texts::attach::STEERING, PATIENCE)?;
        // It looks at all workers once more a moment later.
        thread::sleep(Duration::from_millis(400));
        killed.kill_at(Some(step));
    }
    let load = Load::start(RATE);
    match during {
        During::Attach => {}
        During::Join => workers.push(Worker::start("127.0.0.1:3000", &[])?),
        During::Detach => killed.signal(Signal::TERM)?,
        During::Reload => killed.signal(Signal::HUP)?,
    }
    let ended = match during {
        During::Detach => eventually(PATIENCE, || killed.has_ended()),
        During::Attach | During::Reload | During::Join => {
            if during != During::Join {
                // It may be killed before.
                killed.wait_line(texts::attach::STEERING, PATIENCE).ok();
            }
            // The look at all workers 250 ms later is part of it.
            eventually(Duration::from_millis(500), || killed.has_ended())
        }
    };
    killed.kill_at(None);
    load.finish(row)?;
    if killed.killed_before().is_none() {
        if !ended {
            killed.signal(Signal::TERM)?;
        }
        let (status, said) = killed.wait(PATIENCE)?;
        ensure!(status.success(), "{status}: {said}");
        nothing_is_left(PORT, workers.len())?;
        return Ok(None);
    }
    let (_, said) = killed.wait(PATIENCE)?;
    let Some(before) = killed.killed_before() else {
        bail!("it ended by itself: {said}");
    };
    let recovered = recover(workers, &killed, row).with_context(|| format!("before {before}"));
    if during == During::Join {
        workers.pop();
    }
    if recovered.is_err() {
        // What is left would be the next step's.
        steer(["detach", "--port", "3000"])?;
    }
    recovered?;
    Ok(Some(before))
}

/// After the kill: nobody is worse off than with the hash, and the next steer takes over.
fn recover(workers: &[Worker], killed: &Traced, row: &mut Row) -> anyhow::Result<()> {
    let census = census::one_by_one(local(PORT), CONNECTIONS)?;
    let unserved = workers::pids(workers)
        .into_iter()
        .find(|pid| !census.served.contains_key(pid));
    row.add_census(census);
    ensure!(unserved.is_none(), "pid {unserved:?} got nothing");
    let mut next = attach()?;
    let steering = next.wait_line(texts::attach::STEERING, PATIENCE);
    if steering.is_err() {
        let (status, said) = next.wait(PATIENCE)?;
        bail!("the next attach ended with {status}: {said}");
    }
    if !takes_turns(local(PORT), workers.len())? {
        bail!(
            "no turns: {}; {:?}; {:?}",
            next.said(),
            workers::pids(workers),
            status(PORT)?
        );
    }
    next.signal(Signal::TERM)?;
    let (status, said) = next.wait(PATIENCE)?;
    ensure!(status.success(), "detach ended with {status}: {said}");
    nothing_is_left(PORT, workers.len())?;
    let programs = [killed.programs(), next.programs()].concat();
    ensure!(!programs.is_empty(), "no program was loaded");
    let left = || programs.iter().filter(|id| exists(**id)).count();
    ensure!(
        eventually(PATIENCE, || left() == 0),
        "{} of the programs are still loaded",
        left()
    );
    Ok(())
}

fn attach() -> anyhow::Result<Traced> {
    let mut command = Command::new(binary()?);
    command
        .args(["attach", "--port", "3000", "--policy", "rr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Traced::spawn(command, Vdso::Usable)
}

/// `BPF_PROG_GET_FD_BY_ID`
const PROG_GET_FD_BY_ID: libc::c_int = 13;

/// Whether the kernel has a program of this id.
fn exists(id: u32) -> bool {
    let attr = [id, 0, 0];
    match bpf(PROG_GET_FD_BY_ID, &attr) {
        Ok(descriptor) => {
            // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            true
        }
        Err(_) => false,
    }
}
