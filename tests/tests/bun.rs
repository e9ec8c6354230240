//! Real Bun workers, however they are started: what comes at the same time is spread evenly.

#[path = "../servers/npm.rs"]
mod npm;
#[path = "../servers/pm2.rs"]
mod pm2;
#[path = "../servers/mod.rs"]
mod servers;

use std::{
    env, fmt,
    io::{self, Write as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use npm::Programs;
use pm2::Pm2;
use servers::Room;
use steer_tests::{
    PORT,
    census::Census,
    process::{Output, Process},
    skip::skip,
    steer::{Attach, status_when},
    workers::local,
};
use steer_user::demo::client;

/// Workers of each kind.
const WORKERS: usize = 3;

/// Rounds of each measurement.
const ROUNDS: usize = 100;

/// How long a request blocks its worker's event loop, in milliseconds, unless `STEER_BLOCK_MS` says
/// otherwise.
const BLOCK_MS: u64 = 50;

/// Rounds that may be even under the kernel's hash for the test to prove anything: 22 are expected,
/// and 60 don't happen by chance.
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
    let block = Duration::from_millis(match env::var("STEER_BLOCK_MS") {
        Ok(text) => text.parse().context("STEER_BLOCK_MS is no number")?,
        Err(_) => BLOCK_MS,
    });
    let pids = servers::pids(local(PORT), WORKERS)?;

    let hash = Rounds::run(&pids, 1, block)?;
    report(how, "the kernel's hash", &hash)?;
    ensure!(hash.even < HASH_LIMIT, "no difference to see: {hash}");

    for policy in ["rr", "least"] {
        let attach = Attach::start(PORT, policy, &[])?;
        for each in [1, 2] {
            let rounds = Rounds::run(&pids, each, block)?;
            report(how, policy, &rounds)?;
            ensure!(
                rounds.even == ROUNDS,
                "{how}, {policy}: {rounds}; the first that wasn't: {:?}",
                rounds.first_uneven
            );
        }
        selected_all(&pids, (1 + 2) * ROUNDS)?;
        attach.detach()?;
    }
    Ok(())
}

/// Checks that steer chose the worker for all connections, `each` for every one.
fn selected_all(pids: &[u32], each: usize) -> anyhow::Result<()> {
    let seen = status_when(PORT, |seen| seen.live().all(|worker| worker.active == 0))?;
    // Bun binds dual-stack: IPv4 clients land in an IPv6 group.
    let group = seen.group("[::]:3000", false).context("no group")?;
    ensure!(
        seen.groups.len() == 1 && group.hashed == 0 && group.unsteered == 0,
        "{seen:?}"
    );
    let mut workers: Vec<u32> = group.workers.iter().map(|worker| worker.pid).collect();
    workers.sort_unstable();
    ensure!(workers == pids, "{pids:?} answered, but {seen:?}");
    for worker in &group.workers {
        ensure!(
            worker.selected == each as u64 && worker.connections == each as u64,
            "not {each} each: {seen:?}"
        );
        ensure!(worker.comm.starts_with("bun"), "{seen:?}");
    }
    Ok(())
}

fn report(how: &str, what: &str, rounds: &Rounds) -> io::Result<()> {
    // Past libtest's capture: the numbers are what the test is for.
    writeln!(io::stderr(), "{how}: {what}: {rounds}")
}

/// Rounds of connections at exactly the same time, each of which blocks its worker.
#[derive(Debug)]
struct Rounds {
    each: usize,
    block: Duration,
    /// Rounds in which every worker got `each`.
    even: usize,
    first_uneven: Option<Census>,
    /// From the start of each round to its last answer, in order of length.
    last_answers: Vec<Duration>,
}

impl Rounds {
    fn run(pids: &[u32], each: usize, block: Duration) -> anyhow::Result<Self> {
        let count = each * pids.len();
        let target = client::Target {
            address: local(PORT),
            path: format!("/block?ms={}", block.as_millis()),
            // Under the hash all of them may wait for one worker.
            patience: Duration::from_secs(10) + block * count as u32,
        };
        let mut rounds = Self {
            each,
            block,
            even: 0,
            first_uneven: None,
            last_answers: Vec::with_capacity(ROUNDS),
        };
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let shots = client::fire(&target, count)?;
            rounds.last_answers.push(start.elapsed());
            let mut census = Census::default();
            census.add(count, &shots);
            ensure!(census.answered() == count, "lost connections: {census:?}");
            if census.exactly(pids, each).is_ok() {
                rounds.even += 1;
            } else if rounds.first_uneven.is_none() {
                rounds.first_uneven = Some(census);
            }
        }
        rounds.last_answers.sort_unstable();
        Ok(rounds)
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |place: usize| self.last_answers[place].as_millis();
        write!(
            f,
            "{} at once, blocking {} ms: {} each in {} of {ROUNDS} rounds, last answer p50 {} ms, \
             max {} ms",
            self.each * WORKERS,
            self.block.as_millis(),
            self.each,
            self.even,
            ms(ROUNDS / 2),
            ms(ROUNDS - 1),
        )
    }
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
