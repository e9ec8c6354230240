//! A rolling restart under load loses nothing, because what waits for a worker that ends migrates.
//!
//! `STEER_RESTARTS` is how many workers are restarted in each run.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
    thread,
    time::Duration,
};

use anyhow::ensure;
use steer_tests::{
    PORT,
    churn::{
        crew::{Change, Crew},
        load::{End, Load, Run},
    },
    isolate::isolate,
    net,
    steer::Attach,
    workers::local,
};
use steer_user::migration::{self, Trial};

/// Workers.
const CREW: usize = 4;

/// Connections a second.
const RATE: u32 = 500;

/// Between two restarts.
const PAUSE: Duration = Duration::from_millis(100);

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

impl By {
    fn name(self) -> String {
        match self {
            Self::Hash => "hash".into(),
            Self::HashMigrating => "hash, tcp_migrate_req=1".into(),
            Self::Steer(policy) => format!("steer, {policy}"),
        }
    }
}

/// Every connection by how it ended; nothing is left out.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    sent: usize,
    served: usize,
    migrated: usize,
    reset: usize,
    refused: usize,
    hung: usize,
    broken: usize,
}

impl Ends {
    fn of(run: &Run) -> Self {
        let mut ends = Self {
            sent: run.sent,
            ..Self::default()
        };
        for attempt in &run.attempts {
            let count = match &attempt.end {
                End::Served => &mut ends.served,
                End::Moved(_) => &mut ends.migrated,
                End::Reset | End::Cut => &mut ends.reset,
                End::Refused => &mut ends.refused,
                End::Hung => &mut ends.hung,
                End::Broken(_) => &mut ends.broken,
            };
            *count += 1;
        }
        ends
    }
}

/// Restarts workers one after the other, each with a successor, by SIGTERM: they close their
/// listeners at once and finish what they have accepted.
fn roll(by: By, restarts: usize) -> anyhow::Result<Ends> {
    net::sysctl(
        "ipv4/tcp_migrate_req",
        if by == By::HashMigrating { "1" } else { "0" },
    )?;
    let mut crew = Crew::start_abrupt(local(PORT), CREW)?;
    let attach = match by {
        By::Steer(policy) => Some(Attach::start(PORT, policy, &[])?),
        By::Hash | By::HashMigrating => None,
    };
    let load = Load::start(local(PORT), RATE);
    thread::sleep(PAUSE);
    for _ in 0..restarts {
        crew.change(Change {
            join: 1,
            stop: 1,
            kill: 0,
        })?;
        thread::sleep(PAUSE);
    }
    let ends = Ends::of(&load.finish()?);
    if let Some(attach) = attach {
        attach.detach()?;
    }
    Ok(ends)
}

#[test]
#[ignore = "privileged"]
fn a_rolling_restart_loses_nothing() -> anyhow::Result<()> {
    isolate()?;
    let restarts: usize = env::var("STEER_RESTARTS").map_or(Ok(20), |text| text.parse())?;
    let migrates = migration::trial()? == Trial::Sound;
    let mut table = format!(
        "{restarts} restarts of {CREW} workers by SIGTERM under {RATE} connections/s\n{:<24} {:>7} \
         {:>7} {:>8} {:>6} {:>7} {:>5}\n",
        "", "sent", "served", "migrated", "reset", "refused", "hung"
    );
    for by in [
        By::Hash,
        By::HashMigrating,
        By::Steer("rr"),
        By::Steer("least"),
    ] {
        let ends = roll(by, restarts)?;
        writeln!(
            table,
            "{:<24} {:>7} {:>7} {:>8} {:>6} {:>7} {:>5}",
            by.name(),
            ends.sent,
            ends.served,
            ends.migrated,
            ends.reset,
            ends.refused,
            ends.hung
        )?;
        let lost = ends.reset + ends.refused + ends.hung;
        ensure!(
            ends.broken == 0 && ends.sent == ends.served + ends.migrated + lost,
            "{by:?}: {ends:?}"
        );
        ensure!(ends.hung == 0, "{by:?}: {ends:?}");
        if migrates && matches!(by, By::Steer(_)) {
            ensure!(lost == 0, "{by:?}: {ends:?}");
        }
    }
    io::stdout().write_all(table.as_bytes())?;
    Ok(())
}
