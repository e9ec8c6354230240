//! What is promised of `least`.

use serde_json::{Value, json};
use steer_common::sim::{Discipline, Waits};

use super::cell::Cell;

/// Up to this load in percent the p99 of `least` is to be no larger than that of the shortest
/// queue.
const LIGHT: f64 = 50.0;

/// A promise, and whether it was kept.
pub(super) struct Bound {
    load: f64,
    what: String,
    measured: f64,
    limit: f64,
    pub(super) holds: bool,
}

impl Bound {
    fn at_most(load: f64, what: String, measured: f64, limit: f64) -> Self {
        Self {
            load,
            what,
            measured,
            limit,
            holds: measured <= limit,
        }
    }

    /// The promise as a line for people.
    pub(super) fn line(&self) -> String {
        let verdict = if self.holds { "holds " } else { "MISSED" };
        format!(
            "{verdict} {:3}% {}: {:.2} <= {:.2} ms",
            self.load, self.what, self.measured, self.limit
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "load": self.load,
            "what": self.what,
            "measured": self.measured,
            "limit": self.limit,
            "holds": self.holds,
        })
    }
}

/// All promises to which the measured runs can be held.
pub(super) fn judge(cells: &[Cell], keep_alive: bool) -> Vec<Bound> {
    let mut bounds = Vec::new();
    for least in cells {
        if !least.is_measured() || least.by != Discipline::Least {
            continue;
        }
        let find = |by, measured| {
            cells
                .iter()
                .find(|cell| {
                    cell.load.to_bits() == least.load.to_bits()
                        && cell.by == by
                        && cell.is_measured() == measured
                })
                .map(Cell::waits)
        };
        if keep_alive {
            let hash = find(Discipline::Hash, true);
            bounds.extend(hash.map(|hash| an_eighth(least.load, &least.waits(), &hash)));
        } else if let Some(jsq) = find(Discipline::Jsq, false) {
            bounds.extend(as_good_as(least.load, &least.waits(), &jsq));
        }
    }
    bounds
}

fn an_eighth(load: f64, least: &Waits, hash: &Waits) -> Bound {
    let what = "mean of least, at most an eighth of the hash's".to_owned();
    Bound::at_most(load, what, least.mean, hash.mean / 8.0)
}

fn as_good_as(load: f64, least: &Waits, jsq: &Waits) -> Vec<Bound> {
    let numbers = [
        ("mean", least.mean, jsq.mean),
        ("p50", least.p50, jsq.p50),
        ("p90", least.p90, jsq.p90),
        ("p99", least.p99, jsq.p99),
    ];
    let mut bounds: Vec<Bound> = numbers
        .map(|(name, least, jsq)| {
            let what = format!("{name} of least, at most 1.5 x jsq or 2 ms more");
            Bound::at_most(load, what, least, (1.5 * jsq).max(jsq + 2.0))
        })
        .into();
    if load <= LIGHT {
        let what = "p99 of least, no more than jsq".to_owned();
        bounds.push(Bound::at_most(load, what, least.p99, jsq.p99));
    }
    bounds
}
