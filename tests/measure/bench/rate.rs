//! Connections per second, steered against unsteered.
//!
//! Of the thread's own processor time, which it never stops using: on an idle machine that is the
//! time of the clock, and on a busy one it is the only one of the two that says something.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use steer_common::policy::Policy;
use steer_tests::{PORT, server::Server, steer::Attach};

use crate::{processor_time, summary::Summary};

/// Rounds; in each, every case has its turn.
const ROUNDS: usize = 20;
/// How long a turn takes.
const TURN: Duration = Duration::from_millis(500);
/// Workers of the measured group.
const WORKERS: usize = 3;
/// Connections before a turn.
const WARM_UP: usize = 200;
/// Connections between two looks at the clock.
const LOOK: usize = 50;
/// A port that nobody connects to.
const OTHER_PORT: u16 = 4000;

/// What is done to the group in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Nothing.
    Unsteered,
    /// Nothing, once more: how far the ratio is from 1 by chance.
    Again,
    /// Another port of the host is steered, so that the tracker runs.
    Elsewhere,
    /// It is steered by a policy.
    Steered(Policy),
}

impl Case {
    const ALL: [Self; 5] = [
        Self::Unsteered,
        Self::Again,
        Self::Elsewhere,
        Self::Steered(Policy::Rr),
        Self::Steered(Policy::Least),
    ];

    fn name(self) -> String {
        match self {
            Self::Unsteered => "unsteered".to_owned(),
            Self::Again => "unsteered, once more".to_owned(),
            Self::Elsewhere => "another port is steered".to_owned(),
            Self::Steered(policy) => format!("steered, {}", policy.name()),
        }
    }

    /// What makes the case, which lasts as long as it is kept.
    fn attach(self) -> anyhow::Result<Option<Attach>> {
        Ok(match self {
            Self::Unsteered | Self::Again => None,
            Self::Elsewhere => Some(Attach::start(OTHER_PORT, Policy::Least.name(), &[])?),
            Self::Steered(policy) => Some(Attach::start(PORT, policy.name(), &[])?),
        })
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Connections that only open and close.
    Connections,
    /// Requests on a connection that is kept alive.
    Requests,
}

/// The rates of one case, a round each, per second.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    case: Case,
    rounds: Vec<f64>,
}

/// Measures every case in every round.
pub(crate) fn measure(unit: Unit) -> anyhow::Result<Vec<Rates>> {
    let server = Server::start(PORT, WORKERS)?;
    let _other = Server::start(OTHER_PORT, 1)?;
    let mut rates = Case::ALL.map(|case| Rates {
        case,
        rounds: Vec::new(),
    });
    for round in 0..ROUNDS {
        // Each begins in turn, so that none always follows the same other one.
        for place in 0..rates.len() {
            let rates = &mut rates[(round + place) % Case::ALL.len()];
            rates.rounds.push(turn(&server, rates.case, unit)?);
        }
    }
    Ok(rates.into())
}

/// The rates as a table.
pub(crate) fn table(rates: &[Rates], unit: Unit) -> String {
    let what = match unit {
        Unit::Connections => "Connections",
        Unit::Requests => "Requests on a connection that is kept alive",
    };
    let mut table = format!(
        "{what} per second of processor time over {WORKERS} workers, client and workers in one\n\
         thread, and their ratio to the unsteered ones of the same round: median [quartiles] of\n\
         {ROUNDS} rounds.\n\n\
         {:<28}{:>8}{:>18}{:>9}{:>18}\n",
        "", "rate", "[quartiles]", "ratio", "[quartiles]"
    );
    let unsteered = rates.iter().find(|rates| rates.case == Case::Unsteered);
    for rates in rates {
        let base = unsteered.unwrap_or(rates);
        let ratios = rates.rounds.iter().zip(&base.rounds);
        let (Some(rate), Some(ratio)) = (
            Summary::of(rates.rounds.iter().copied()),
            Summary::of(ratios.map(|(rate, base)| rate / base)),
        ) else {
            continue;
        };
        let rate_range = format!("[{:.0}, {:.0}]", rate.low, rate.high);
        let ratio_range = format!("[{:.3}, {:.3}]", ratio.low, ratio.high);
        // Writing to a String can't fail.
        let _ = writeln!(
            table,
            "{:<28}{:>8.0}{rate_range:>18}{:>9.3}{ratio_range:>18}",
            rates.case.name(),
            rate.median,
            ratio.median,
        );
    }
    table
}

fn turn(server: &Server, case: Case, unit: Unit) -> anyhow::Result<f64> {
    let attach = case.attach()?;
    let mut kept = server.connect()?;
    let mut make = |count| match unit {
        Unit::Connections => server.connections(count),
        Unit::Requests => Ok(kept.requests(count)?),
    };
    make(WARM_UP)?;
    let end = Instant::now() + TURN;
    let start = processor_time();
    let mut connections = 0;
    while Instant::now() < end {
        make(LOOK)?;
        connections += LOOK;
    }
    let rate = connections as f64 / (processor_time() - start);
    if let Some(attach) = attach {
        attach.detach()?;
    }
    Ok(rate)
}
