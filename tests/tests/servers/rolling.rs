//! Rolling restarts under load: what waits for a worker that ends is served by another, and only
//! what it had accepted ends with it.
//!
//! `STEER_RESTARTS` is how many restarts each run has. What they print is the table of
//! docs/restarts.md.

use std::{
    env, fmt, fs,
    io::{self, Write as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    churn::{
        claims::Claims,
        crew::{Change, Crew},
        ends::Ends,
        load::Load,
        now,
    },
    isolate::isolate,
    net,
    process::eventually,
    servers::{self, Room, npm::Programs, pm2::Pm2},
    skip::skip,
    steer::Attach,
    workers::local,
};
use steer_user::{
    kernel::migration::{self, Trial},
    sys::sockdiag,
};

/// Workers.
const CREW: usize = 4;

/// Connections a second.
const RATE: u32 = 500;

/// Before the first restart and after the last.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a restarted worker may take until it listens.
const LISTENS: Duration = Duration::from_secs(10);

/// From so many restarts on some connections must be lost without steer, or nothing is shown.
const CONCLUSIVE: usize = 100;

/// Restarts of which one may lose a connection that is being established at that very moment, for
/// which the kernel asks nobody: see docs/restarts.md.
const CLOSING_EVERY: usize = 100;

/// Where Bun's workers write down what they had accepted: `/run` is the test's own.
const CLAIMS: &str = "/run/claims";

/// How a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It closes its listener and finishes what it has accepted.
    Finishes,
    /// It ends at once: by SIGKILL, or without finishing anything.
    Loses,
}

/// What decides where connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The kernel's hash.
    Hash,
    /// The same with `net.ipv4.tcp_migrate_req=1`.
    HashMigrating,
    /// steer.
    Steer(&'static str),
}

const ALL: [By; 4] = [
    By::Hash,
    By::HashMigrating,
    By::Steer("rr"),
    By::Steer("least"),
];

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("the kernel's hash"),
            Self::HashMigrating => f.write_str("the same, `tcp_migrate_req=1`"),
            Self::Steer(policy) => write!(f, "steer, `{policy}`"),
        }
    }
}

/// One row of the table, which begins with one of [`HEAD`].
struct Row<'a> {
    workers: &'a str,
    by: By,
    restarts: usize,
    ends: &'a Ends,
}

const HEAD: &str = "\
| workers | placed by | restarts | sent | served | reset: accepted before | waiting | being established | refused | hung |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
";

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ends {
            sent,
            served,
            accepted,
            closing,
            waiting,
            refused,
            hung,
            ..
        } = self.ends;
        let waiting = waiting.len();
        writeln!(
            f,
            "| {} | {} | {} | {sent} | {served} | {accepted} | {waiting} | {closing} | {refused} | {hung} |",
            self.workers, self.by, self.restarts
        )
    }
}

/// What must hold of a run.
fn check(row: &Row<'_>, ending: Ending) -> anyhow::Result<()> {
    let Row { by, ends, .. } = row;
    ensure!(
        ends.adds_up() && ends.hung == 0 && ends.served > 0,
        "{by}: {ends:?}"
    );
    let migrates = migration::trial()? == Trial::Sound;
    match by {
        By::Steer(_) if migrates => {
            ensure!(
                ends.waiting.is_empty() && ends.refused == 0,
                "{by}: {ends:?}"
            );
            ensure!(
                ends.closing <= 1 + row.restarts / CLOSING_EVERY,
                "{by}: {ends:?}"
            );
            ensure!(
                ending == Ending::Loses || ends.accepted == 0,
                "{by}: {ends:?}"
            );
        }
        By::Hash if row.restarts >= CONCLUSIVE => {
            ensure!(!ends.waiting.is_empty(), "nothing to save: {ends:?}");
        }
        By::Hash | By::HashMigrating | By::Steer(_) => {}
    }
    Ok(())
}

/// Connections at a constant rate while workers are restarted.
fn under_load(
    by: By,
    restarts: usize,
    mut restart: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Load> {
    net::sysctl(
        "ipv4/tcp_migrate_req",
        if by == By::HashMigrating { "1" } else { "0" },
    )?;
    let load = Load::start(local(PORT), RATE);
    thread::sleep(PAUSE);
    for number in 0..restarts {
        restart(number).with_context(|| format!("{by}, restart {number}"))?;
    }
    thread::sleep(PAUSE);
    Ok(load)
}

fn steered(by: By) -> anyhow::Result<Option<Attach>> {
    match by {
        By::Steer(policy) => Attach::start(PORT, policy, &[]).map(Some),
        By::Hash | By::HashMigrating => Ok(None),
    }
}

fn restarts(unless_said: usize) -> anyhow::Result<usize> {
    match env::var("STEER_RESTARTS") {
        Ok(text) => text.parse().context("STEER_RESTARTS is no number"),
        Err(_) => Ok(unless_said),
    }
}

/// Past libtest's capture: the numbers are what the test is for.
fn say(text: &str) -> io::Result<()> {
    io::stderr().write_all(text.as_bytes())
}

/// Small workers in Rust, each with a successor that listens before it ends or soon after.
fn roll(by: By, ending: Ending, restarts: usize) -> anyhow::Result<Ends> {
    let mut crew = Crew::start_abrupt(local(PORT), CREW)?;
    let attach = steered(by)?;
    let load = under_load(by, restarts, |_| {
        let (stop, kill) = match ending {
            Ending::Finishes => (1, 0),
            Ending::Loses => (0, 1),
        };
        crew.change(Change {
            join: 1,
            stop,
            kill,
        })?;
        thread::sleep(PAUSE);
        Ok(())
    })?;
    let ends = Ends::new(&load.finish()?, crew.claims);
    if let Some(attach) = attach {
        attach.detach()?;
    }
    Ok(ends)
}

fn roll_all(ending: Ending, workers: &str) -> anyhow::Result<()> {
    isolate()?;
    let restarts = restarts(10)?;
    say(HEAD)?;
    for by in ALL {
        let row = Row {
            workers,
            by,
            restarts,
            ends: &roll(by, ending, restarts)?,
        };
        say(&row.to_string())?;
        check(&row, ending)?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn workers_that_finish_what_they_accepted_lose_nothing() -> anyhow::Result<()> {
    roll_all(Ending::Finishes, "Rust, SIGTERM, finish")
}

#[test]
#[ignore = "privileged"]
fn killed_workers_lose_only_what_they_had_accepted() -> anyhow::Result<()> {
    roll_all(Ending::Loses, "Rust, SIGKILL")
}

/// Bun's workers, restarted by PM2 one at a time: the old one ends, then the new one starts.
fn roll_bun(test: &str, ending: Ending, workers: &str) -> anyhow::Result<()> {
    let programs = match Programs::install() {
        Ok(programs) => programs,
        Err(reason) => return skip(test, &reason),
    };
    let _room = Room::enter()?;
    let restarts = restarts(CREW)?;
    let how = match ending {
        Ending::Finishes => "finish",
        Ending::Loses => "exit",
    };
    let environment = vec![
        ("WORKERS", CREW.to_string()),
        ("ENDING", how.to_owned()),
        ("CLAIMS", CLAIMS.to_owned()),
    ];
    let pm2 = Pm2::start(&programs, "bun/rolling.config.cjs", environment)?;
    let all_listen = || {
        let listeners = sockdiag::listeners(PORT);
        listeners.is_ok_and(|listeners| listeners.len() == CREW)
    };
    servers::pids(local(PORT), CREW)?;
    say(HEAD)?;
    for by in [By::Hash, By::HashMigrating, By::Steer("least")] {
        let attach = steered(by)?;
        let load = under_load(by, restarts, |number| {
            let worker = (number % CREW).to_string();
            pm2.run(&["restart".as_ref(), worker.as_ref()])?;
            ensure!(eventually(LISTENS, all_listen), "not {CREW} listeners");
            Ok(())
        })?;
        let run = load.finish()?;
        let mut claims = Claims::default();
        claims.add(&fs::read_to_string(CLAIMS)?, now()..=now());
        let ends = Ends::new(&run, claims);
        if let Some(attach) = attach {
            attach.detach()?;
        }
        let row = Row {
            workers,
            by,
            restarts,
            ends: &ends,
        };
        say(&row.to_string())?;
        check(&row, ending)?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn workers_of_bun_that_finish_lose_nothing() -> anyhow::Result<()> {
    let test = "workers_of_bun_that_finish_lose_nothing";
    roll_bun(test, Ending::Finishes, "Bun under PM2, `server.stop()`")
}

#[test]
#[ignore = "privileged"]
fn workers_of_bun_that_exit_lose_only_what_they_had_accepted() -> anyhow::Result<()> {
    let test = "workers_of_bun_that_exit_lose_only_what_they_had_accepted";
    roll_bun(test, Ending::Loses, "Bun under PM2, `process.exit()`")
}
