//! Real Bun workers, however they are started: what comes at the same time is spread evenly.

use std::{
    env,
    io::{self, Write as _},
    num::ParseIntError,
    process::{Command, Stdio},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    bursts::Bursts,
    process::{Output, Process},
    servers::{self, Room, npm::Programs, pm2::Pm2},
    skip::skip,
    steer::{Attach, status_when},
    workers::local,
};

/// Workers of each kind.
const WORKERS: usize = 3;

/// Rounds of each measurement, unless `STEER_ROUNDS` says otherwise.
const ROUNDS: usize = 30;

/// How long a request blocks its worker's event loop, in milliseconds, unless `STEER_BLOCK_MS` says
/// otherwise.
const BLOCK_MS: u64 = 50;

/// Percent of the rounds that may be even under the kernel's hash for the test to prove anything: 22 are
/// expected, and 60 don't happen by chance.
const HASH_LIMIT: usize = 60;

#[test]
#[ignore = "privileged"]
fn workers_of_bun_spawn() -> anyhow::Result<()> {
    let programs = match Programs::install() {
        Ok(programs) => programs,
        Err(reason) => return skip("workers_of_bun_spawn", &reason),
    };
    let room = Room::enter()?;
    let _parent = bun(&programs, "bun/spawn.js")?;
    spreads("Bun.spawn", &room)
}

#[test]
#[ignore = "privileged"]
fn workers_of_node_cluster() -> anyhow::Result<()> {
    let programs = match Programs::install() {
        Ok(programs) => programs,
        Err(reason) => return skip("workers_of_node_cluster", &reason),
    };
    let room = Room::enter()?;
    let _primary = bun(&programs, "bun/cluster.js")?;
    spreads("node:cluster", &room)
}

#[test]
#[ignore = "privileged"]
fn workers_of_pm2_in_fork_mode() -> anyhow::Result<()> {
    let programs = match Programs::install() {
        Ok(programs) => programs,
        Err(reason) => return skip("workers_of_pm2_in_fork_mode", &reason),
    };
    let room = Room::enter()?;
    let workers = vec![("WORKERS", WORKERS.to_string())];
    let _pm2 = Pm2::start(&programs, "bun/pm2.config.cjs", workers)?;
    spreads("PM2, fork mode", &room)
}

/// Measures the workers of the port under the kernel's hash and under both policies.
fn spreads(how: &str, _room: &Room) -> anyhow::Result<()> {
    let block = Duration::from_millis(number("STEER_BLOCK_MS", BLOCK_MS)?);
    let rounds = number("STEER_ROUNDS", ROUNDS)?;
    let pids = servers::pids(local(PORT), WORKERS)?;
    for each in [1, 2] {
        let bursts = || Bursts::run(PORT, &pids, each, rounds, block);
        let hash = bursts()?;
        report(how, "the kernel's hash", &hash)?;
        ensure!(
            100 * hash.even < HASH_LIMIT * rounds,
            "no difference to see: {hash}"
        );
        for policy in ["rr", "least"] {
            let attach = Attach::start(PORT, policy, &["--eject-after", "0"])?;
            let steered = bursts()?;
            report(how, policy, &steered)?;
            steered.check(policy, &hash).context(how.to_owned())?;
            selected_all(&pids, each * WORKERS * rounds, policy)?;
            attach.detach()?;
        }
    }
    Ok(())
}

fn number<T: FromStr<Err = ParseIntError>>(variable: &str, usual: T) -> anyhow::Result<T> {
    env::var(variable).map_or(Ok(usual), |text| {
        text.parse()
            .with_context(|| format!("{variable} is no number"))
    })
}

/// Checks that steer chose the worker for all connections, and by `rr` the same number for each.
fn selected_all(pids: &[u32], connections: usize, policy: &str) -> anyhow::Result<()> {
    let seen = status_when(PORT, |seen| seen.is_idle(WORKERS))?;
    // Bun binds dual-stack: IPv4 clients land in an IPv6 group.
    let group = seen.group("[::]:3000", false).context("no group")?;
    ensure!(
        seen.groups.len() == 1 && group.hashed == 0 && group.unsteered == 0,
        "{seen:?}"
    );
    ensure!(group.selected == connections as u64, "{seen:?}");
    let mut workers: Vec<u32> = group.workers.iter().map(|worker| worker.pid).collect();
    workers.sort_unstable();
    ensure!(workers == pids, "{pids:?} answered, but {seen:?}");
    let each = (connections / pids.len()) as u64;
    for worker in &group.workers {
        ensure!(worker.selected == worker.connections, "{seen:?}");
        ensure!(
            policy != "rr" || worker.selected == each,
            "not {each} each: {seen:?}"
        );
        ensure!(worker.comm.starts_with("bun"), "{seen:?}");
    }
    Ok(())
}

fn report(how: &str, what: &str, bursts: &Bursts) -> io::Result<()> {
    // Past libtest's capture: the numbers are what the test is for.
    writeln!(io::stderr(), "{how}: {what}: {bursts}")
}

/// Runs a script that starts the workers.
fn bun(programs: &Programs, script: &str) -> anyhow::Result<Process> {
    let mut command = Command::new(&programs.bun);
    command
        .arg(servers::file(script))
        .env("PORT", PORT.to_string())
        .env("WORKERS", WORKERS.to_string())
        .stdin(Stdio::null());
    Process::spawn(command, Output::Stdout)
}
