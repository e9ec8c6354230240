//! A steer that may open fewer files than it needs.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};

use super::{Row, load::Load};
use crate::{
    PORT, census,
    isolate::leftovers,
    process::{Output, Process},
    steer::{Attach, binary, code, nothing_is_left, status_when, steer},
    texts,
    workers::{self, Worker, local},
};

const RATE: u32 = 200;

/// How long an attach may take to steer or to fail, and steer to do what it failed to do before.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    Ok(vec![attach_with_limits()?, none_left_for_a_join()?])
}

/// Limits with which steer can't attach. With fewer than four it can't even find its libraries.
const TOO_LOW: [u64; 9] = [5, 6, 7, 8, 12, 20, 40, 64, 127];

/// The lowest with which it does.
const ENOUGH: u64 = 128;

/// A limit that is too low at the start.
fn attach_with_limits() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr: attach");
    let _workers = workers::start(3, "127.0.0.1:3000")?;
    let load = Load::start(RATE);
    let mut wrong = Vec::new();
    for limit in TOO_LOW {
        let mut attach = attach_with(limit)?;
        let ended = attach.wait(PATIENCE)?;
        let said = attach.rest();
        let clear = said.lines().count() == 1 && said.contains(texts::attach::RAISE_THE_LIMIT);
        let left = leftovers()?;
        if ended.code() != Some(1) || !clear || !left.is_empty() {
            wrong.push(format!("limit {limit}: {ended}, left {left:?}: {said:?}"));
        }
    }
    let mut attach = attach_with(ENOUGH)?;
    let steers = attach.wait_line(texts::attach::STEERING, PATIENCE).is_ok();
    let ended = attach.end(Signal::TERM)?;
    if !steers || !ended.success() || !leftovers()?.is_empty() {
        wrong.push(format!("limit {ENOUGH}: {ended}: {:?}", attach.rest()));
    }
    load.finish(&mut row)?;
    row.check_all_served();
    row.check(
        wrong.is_empty(),
        if wrong.is_empty() {
            format!(
                "with 5 to 127 says in one line how many it needs and what to raise, exit code 1, \
                 nothing left; with {ENOUGH} it steers"
            )
        } else {
            wrong.join("; ")
        },
    );
    Ok(row)
}

fn attach_with(limit: u64) -> anyhow::Result<Process> {
    let mut command = Command::new(binary()?);
    command
        .args(["attach", "--port", "3000", "--policy", "rr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let lower = move || Ok(setrlimit(Resource::Nofile, both(limit))?);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(lower) };
    Process::spawn(command, Output::Stderr)
}

/// A loader that can open nothing when a worker starts.
fn none_left_for_a_join() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr: join");
    let mut workers = workers::start(3, "127.0.0.1:3000")?;
    // Else the first warning may be that this kernel can't migrate.
    let mut attach = Attach::start(PORT, "rr", &["--migrate", "off"])?;
    // It has looked at all workers for the last time.
    std::thread::sleep(Duration::from_millis(500));
    let load = Load::start(RATE);
    let loader = Pid::from_raw(attach.pid() as i32);
    let fds = format!("/proc/{}/fd", attach.pid());
    let unused = (0..1024).find(|fd| !Path::new(&fds).join(fd.to_string()).exists());
    // The hard limit stays: not everybody may raise that again.
    let former = getrlimit(Resource::Nofile);
    let none_left = Rlimit {
        current: unused,
        ..former
    };
    prlimit(loader, Resource::Nofile, none_left)?;
    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    let joined = workers[3].pid();
    let warned = attach.wait_line(&texts::warning(""));
    let census = census::one_by_one(local(PORT), 400)?;
    let share = census.served.get(&joined).copied().unwrap_or_default();
    row.add_census(census);
    prlimit(loader, Resource::Nofile, former)?;
    let follows = attach_follows(&workers);
    load.finish(&mut row)?;
    let said = attach.said();
    prlimit(loader, Resource::Nofile, none_left)?;
    let ended = attach.end(Signal::TERM)?;
    let last = attach.said();
    let detached = steer(["detach", "--port", "3000"])?;
    nothing_is_left(PORT, workers.len())?;
    row.check_all_served();
    row.check(
        warned.is_ok_and(|line| texts::has_all(&line, &texts::attach::TOO_MANY_FILES)),
        format!(
            "says \"{}\", what to raise, and that it tries again",
            texts::attach::TOO_MANY_FILES[0]
        ),
    );
    row.check(
        // A quarter, give or take five standard deviations.
        (55..=145).contains(&share),
        format!("meanwhile the new worker has its share by the hash: {share} of 400"),
    );
    row.check(
        follows,
        if follows {
            "steered within 15 s of the limit's rise".to_owned()
        } else {
            format!("not steered after the limit's rise: {said}")
        },
    );
    // The maps that it closes first may give it enough.
    let well = ended.success();
    let told = ended.code() == Some(1) && last.contains(&texts::attach::try_detach(PORT));
    row.check(
        well && detached.code == Some(code::NOTHING) || told && detached.code == Some(0),
        format!(
            "told to stop without any, it detaches, or says \"try `{}`\", which does",
            texts::attach::try_detach(PORT)
        ),
    );
    Ok(row)
}

fn attach_follows(workers: &[Worker]) -> bool {
    (0..5).any(|_| status_when(PORT, |seen| seen.live().count() == workers.len()).is_ok())
}

fn both(limit: u64) -> Rlimit {
    Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    }
}
