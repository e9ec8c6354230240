//! Clocks that jump: steer looks at the one that doesn't, and only at differences of it.

use std::{
    ffi::CString,
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    fs::{Mode, OFlags, open},
    io::write,
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use super::{Row, load::Load};
use crate::{
    PORT,
    churn::now,
    process::{Output, Process},
    steer::{binary, status_when},
    texts,
    trace::{Traced, Vdso},
    workers::{self, Worker},
};

const RATE: u32 = 200;

const PATIENCE: Duration = Duration::from_secs(20);

/// A jump forward, in seconds.
const AHEAD: i64 = 10 * 24 * 60 * 60;

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let up = now().as_secs() as i64;
    Ok(vec![
        asks_for_no_date()?,
        offset("10 days ahead", AHEAD)?,
        // The clock can't be below zero.
        offset("half of the time since boot behind", -up / 2)?,
    ])
}

/// Everything that steer does, with every question for the time seen.
fn asks_for_no_date() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr: which clocks it asks");
    let mut workers = workers::start(4, "127.0.0.1:3000")?;
    let mut steer = Traced::spawn(attach()?, Vdso::Hidden)?;
    steer.wait_line(texts::attach::STEERING, PATIENCE)?;
    let load = Load::start(RATE);
    live_through(&mut workers, &mut row)?;
    load.finish(&mut row)?;
    steer.signal(Signal::TERM)?;
    let (status, said) = steer.wait(PATIENCE)?;
    let clocks = steer.clocks();
    let of = |clock: libc::clockid_t| {
        let key = (libc::SYS_clock_gettime, clock as u64);
        clocks.get(&key).copied().unwrap_or_default()
    };
    let monotonic = of(libc::CLOCK_MONOTONIC);
    let boottime = of(libc::CLOCK_BOOTTIME);
    // How much processor time it has taken: no clock that anybody can set.
    let own = of(libc::CLOCK_PROCESS_CPUTIME_ID);
    let others = clocks.values().sum::<u64>() - monotonic - boottime - own;
    row.check_all_served();
    row.check(status.success(), format!("ends with {status} {said:?}"));
    row.check(
        others == 0 && monotonic > 0 && boottime > 0,
        format!(
            "CLOCK_MONOTONIC asked {monotonic} times, CLOCK_BOOTTIME {boottime}, the date {others}: \
             setting that changes nothing"
        ),
    );
    Ok(row)
}

/// A steer whose clocks differ from those that the kernel programs read.
fn offset(what: &str, seconds: i64) -> anyhow::Result<Row> {
    let mut row = Row::new(format!("steer, rr: its clocks {what}"));
    let mut workers = workers::start(4, "127.0.0.1:3000")?;
    let mut command = attach()?;
    in_time_namespace(&mut command, seconds)?;
    let mut steer = Process::spawn(command, Output::Stderr)?;
    steer.wait_line(texts::attach::STEERING, PATIENCE)?;
    let load = Load::start(RATE);
    live_through(&mut workers, &mut row)?;
    load.finish(&mut row)?;
    let ended = steer.end(Signal::TERM)?;
    row.check_all_served();
    row.check(ended.success(), "detaches");
    Ok(row)
}

fn attach() -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command
        .args(["attach", "--port", "3000", "--policy", "rr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

/// What depends on time: a worker comes, one is ejected and taken back.
fn live_through(workers: &mut Vec<Worker>, row: &mut Row) -> anyhow::Result<()> {
    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    let joined = status_when(PORT, |seen| seen.live().count() == 5);
    let victim = Pid::from_raw(workers[0].pid() as i32).context("a pid isn't 0")?;
    let is = |state: &str| {
        status_when(PORT, |seen| {
            let mut all = seen.groups.iter().flat_map(|group| &group.workers);
            all.any(|worker| worker.pid == workers[0].pid() && worker.state == state)
        })
    };
    kill_process(victim, Signal::STOP)?;
    thread::sleep(Duration::from_millis(500));
    let early = is("live");
    let ejected = is("ejected");
    kill_process(victim, Signal::CONT)?;
    let back = is("live");
    row.check(
        joined.is_ok() && early.is_ok() && ejected.is_ok() && back.is_ok(),
        "a worker that comes is steered; one that stops is ejected after 1 s, not before, and back \
         after SIGCONT",
    );
    Ok(())
}

/// Has the command run in a time namespace whose clocks are that many seconds off.
fn in_time_namespace(command: &mut Command, seconds: i64) -> anyhow::Result<()> {
    let offsets = CString::new(format!("monotonic {seconds} 0\nboottime {seconds} 0\n"))?;
    let enter = move || -> io::Result<()> {
        // SAFETY: the process has this one thread, and nothing of it depends on which clock it has.
        unsafe { unshare_unsafe(UnshareFlags::NEWTIME) }?;
        let file = open(c"/proc/self/timens_offsets", OFlags::WRONLY, Mode::empty())?;
        write(&file, offsets.as_bytes())?;
        let namespace = open(
            c"/proc/self/ns/time_for_children",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Time),
        )?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls and allocates nothing: paths and
    // offsets were made before.
    unsafe { command.pre_exec(enter) };
    Ok(())
}
