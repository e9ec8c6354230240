//! What is told of a run.

use std::collections::BTreeMap;

use serde::Serialize;
use steer_common::quantile;

use crate::{
    connection::End,
    group::Steered,
    record::{Answered, Run},
};

/// One run. All times are in nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// How long each connection's first request waited, in the order of the arrivals; none where it
    /// was not answered.
    first: Vec<Option<u64>>,
    /// Connections by what became of them.
    ends: BTreeMap<&'static str, usize>,
    /// What the broken ones ended with.
    broken: Vec<String>,
    /// What steer did, unless the kernel's hash decided.
    steered: Option<Steered>,
    /// What a worker took for a request on top of its service time.
    overhead: Overhead,
    /// 99 % of the connections came less than this too late.
    late_p99: u64,
    /// Connections given to a worker that had something to do while another had nothing.
    misplaced: usize,
}

/// The time from one request's beginning to the next one's that was waiting for the same worker,
/// less the service time.
#[derive(Debug, Serialize)]
struct Overhead {
    mean: f64,
    requests: usize,
}

impl Report {
    pub(crate) fn new(run: &Run, steered: Option<Steered>) -> Self {
        let mut first = vec![None; run.ends.len()];
        for answered in run.answered.iter().filter(|answered| answered.first) {
            first[answered.connection] = Some(answered.began.saturating_sub(answered.sent));
        }
        let mut ends = BTreeMap::new();
        for end in &run.ends {
            *ends.entry(name(end)).or_default() += 1;
        }
        let mut late = run.late.clone();
        late.sort_unstable();
        Self {
            first,
            ends,
            broken: run.ends.iter().filter_map(words).collect(),
            steered,
            overhead: overhead(&run.answered),
            late_p99: quantile::upper(&late, 99).unwrap_or(0),
            misplaced: misplaced(&run.answered),
        }
    }
}

fn name(end: &End) -> &'static str {
    match end {
        End::Served => "served",
        End::Cut => "cut",
        End::Reset => "reset",
        End::Refused => "refused",
        End::Hung => "hung",
        End::Broken(_) => "broken",
    }
}

fn words(end: &End) -> Option<String> {
    match end {
        End::Broken(words) => Some(words.clone()),
        End::Served | End::Cut | End::Reset | End::Refused | End::Hung => None,
    }
}

fn overhead(answered: &[Answered]) -> Overhead {
    let mut in_order = answered.to_vec();
    in_order.sort_by_key(|request| (request.pid, request.began));
    let taken: Vec<f64> = in_order
        .windows(2)
        .filter(|pair| pair[0].pid == pair[1].pid && pair[1].sent < pair[0].began)
        .map(|pair| (pair[1].began - pair[0].began) as f64 - pair[0].service as f64)
        .collect();
    Overhead {
        mean: taken.iter().sum::<f64>() / taken.len().max(1) as f64,
        requests: taken.len(),
    }
}

/// A worker has something to do from the sending of a request until its service time is over.
fn misplaced(answered: &[Answered]) -> usize {
    // At the same moment an end goes first: the worker is free then.
    let mut events: Vec<(u64, bool, &Answered)> = answered
        .iter()
        .flat_map(|request| {
            let done = request.began + request.service;
            [(request.sent, true, request), (done, false, request)]
        })
        .collect();
    events.sort_by_key(|(time, begins, _)| (*time, *begins));
    let mut to_do: BTreeMap<u32, usize> = answered.iter().map(|request| (request.pid, 0)).collect();
    let mut count = 0;
    for (_, begins, request) in events {
        let one_is_free = to_do.values().any(|requests| *requests == 0);
        let Some(requests) = to_do.get_mut(&request.pid) else {
            continue;
        };
        if begins {
            count += usize::from(request.first && *requests > 0 && one_is_free);
            *requests += 1;
        } else {
            *requests -= 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sent: u64, began: u64, service: u64, pid: u32) -> Answered {
        Answered {
            connection: 0,
            first: true,
            sent,
            began,
            service,
            pid,
        }
    }

    #[test]
    fn overhead_is_between_requests_that_waited() {
        let answered = [
            request(0, 1, 10, 7),
            request(0, 13, 10, 7),
            // Sent when nothing was to do.
            request(40, 41, 10, 7),
            request(0, 5, 10, 8),
        ];
        let overhead = overhead(&answered);
        assert_eq!(overhead.requests, 1);
        assert!((overhead.mean - 2.0).abs() < 1e-9, "{overhead:?}");
    }

    #[test]
    fn misplaced_is_behind_others_while_a_worker_is_free() {
        let free = [
            request(0, 0, 5, 7),
            request(1, 5, 5, 7),
            request(20, 20, 5, 8),
        ];
        assert_eq!(misplaced(&free), 1);
        let all_busy = [
            request(0, 0, 5, 7),
            request(0, 0, 5, 8),
            request(1, 5, 5, 7),
        ];
        assert_eq!(misplaced(&all_busy), 0);
    }
}
