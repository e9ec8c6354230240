//! The connections of a run, as the simulator writes and reads them.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

/// Nanoseconds in a millisecond.
const MS: f64 = 1e6;

/// One connection. All times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When it comes, from the start of the run.
    pub(crate) at: u64,
    /// Its requests, at least one.
    pub(crate) requests: Vec<Ask>,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Time from the answer before until it is sent; 0 for the first.
    pub(crate) think: u64,
    /// For how long the worker is to block.
    pub(crate) service: u64,
}

/// Reads connections: a line for each, its time, the service time of its request, and think time
/// and service time of every further one, in ms. Empty lines and such as begin with # don't count.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<Arrival>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let arrivals: Vec<Arrival> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| parse(line).with_context(|| format!("{}: {line:?}", file.display())))
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        arrivals.is_sorted_by_key(|arrival| arrival.at),
        "{} isn't in the order of time",
        file.display()
    );
    Ok(arrivals)
}

fn parse(line: &str) -> anyhow::Result<Arrival> {
    let times = line
        .split_whitespace()
        .map(|number| Ok((number.parse::<f64>()? * MS) as u64))
        .collect::<anyhow::Result<Vec<u64>>>()?;
    let (pairs, odd) = times.as_chunks();
    let [[at, service], further @ ..] = pairs else {
        anyhow::bail!("a connection takes two numbers");
    };
    ensure!(odd.is_empty(), "a request takes two numbers");
    let first = Ask {
        think: 0,
        service: *service,
    };
    let further = further
        .iter()
        .map(|&[think, service]| Ask { think, service });
    Ok(Arrival {
        at: *at,
        requests: std::iter::once(first).chain(further).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_connection() {
        let arrival = parse("1.5 4 200 0.25").expect("a connection");
        let asks = [(0, 4_000_000), (200_000_000, 250_000)];
        assert_eq!(arrival.at, 1_500_000);
        assert_eq!(
            arrival.requests,
            asks.map(|(think, service)| Ask { think, service })
        );
        for bad in ["", "1", "1 2 3", "1 x"] {
            parse(bad).expect_err(bad);
        }
    }
}
