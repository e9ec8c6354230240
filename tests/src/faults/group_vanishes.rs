//! Workers that end while steer attaches to their group.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::Row;
use crate::{
    PORT, census,
    isolate::leftovers,
    steer::Attach,
    texts,
    workers::{self, Worker, local},
};

/// How often.
const TRIES: u32 = 40;

const WORKERS: usize = 2;

/// Connections before and after each.
const CONNECTIONS: usize = 6;

/// What steer may say when nobody is left.
const LINES: [&str; 2] = [texts::attach::WAITING, texts::attach::STEERING_TCP];

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new("steer, rr");
    let takes = how_long_it_takes()?;
    let mut seen = Seen::default();
    for round in 0..TRIES {
        let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
        row.add_census(census::one_by_one(local(PORT), CONNECTIONS)?);
        let mut attach = Attach::spawn(PORT, "rr", &[])?;
        // From at once to a quarter later than it takes.
        thread::sleep(takes * round * 5 / 4 / TRIES);
        for worker in workers {
            worker.kill()?;
        }
        row.add_census(census::one_by_one(local(PORT), CONNECTIONS)?);
        seen.one(&mut attach, &mut row)?;
    }
    let refused = TRIES as usize * CONNECTIONS;
    row.check(
        row.census.refused == refused,
        format!("those {refused} that came when nobody listened are refused"),
    );
    row.check(
        row.census.answered() == row.census.sent - refused,
        "all others served",
    );
    row.check(
        seen.attached > 0 && seen.waiting > 0,
        format!(
            "attached before they left {} times, says \"{}\", or for a worker, {} times",
            seen.attached,
            texts::attach::WAITING_FOR_LISTENER,
            seen.waiting
        ),
    );
    row.check(
        seen.wrong.is_empty(),
        if seen.wrong.is_empty() {
            "new workers are steered each time, exit code 0, nothing left".to_owned()
        } else {
            seen.wrong.join("; ")
        },
    );
    Ok(vec![row])
}

/// How steer fared.
#[derive(Debug, Default)]
struct Seen {
    /// It had attached already.
    attached: u32,
    /// It waits for the first worker.
    waiting: u32,
    /// What it should not have done.
    wrong: Vec<String>,
}

impl Seen {
    /// Looks at a steer whose workers have gone: it goes on, steers new ones, and detaches.
    fn one(&mut self, attach: &mut Attach, row: &mut Row) -> anyhow::Result<()> {
        let line = attach.wait_line("");
        let starts = |with: &str| line.as_ref().is_ok_and(|line| line.starts_with(with));
        self.waiting += u32::from(starts(LINES[0]));
        self.attached += u32::from(starts(LINES[1]));
        if !LINES.into_iter().any(starts) {
            let said = attach.said();
            self.wrong.push(format!("it said {said:?} only"));
        }
        let workers: Vec<Worker> = workers::start(WORKERS, "127.0.0.1:3000")?;
        if let Err(error) = attach.wait_line(LINES[1]) {
            self.wrong.push(format!("new workers: {error:#}"));
        }
        let census = census::one_by_one(local(PORT), CONNECTIONS)?;
        row.add_census(census);
        let ended = attach.end(Signal::TERM)?;
        let left = leftovers()?;
        if !ended.success() || !left.is_empty() {
            let said = attach.said();
            self.wrong.push(format!("{ended}, left {left:?}: {said:?}"));
        }
        for worker in workers {
            worker.kill()?;
        }
        Ok(())
    }
}

/// How long steer takes to attach here.
fn how_long_it_takes() -> anyhow::Result<Duration> {
    let _workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let start = Instant::now();
    let attach = Attach::start(PORT, "rr", &[])?;
    let takes = start.elapsed();
    attach.detach()?;
    Ok(takes)
}
