//! What the clients do, drawn at random.

use core::str::FromStr;
use std::{format, string::String, vec::Vec};

use fastrand::Rng;

/// Nanoseconds in a millisecond.
const MS: f64 = 1e6;

/// Converts milliseconds to the simulation's nanoseconds.
pub fn ns(ms: f64) -> u64 {
    (ms * MS) as u64
}

/// Converts the simulation's nanoseconds to milliseconds.
pub fn ms(ns: u64) -> f64 {
    ns as f64 / MS
}

/// Service times, each with its probability.
#[derive(Clone, Debug)]
pub struct Mix(Vec<(f64, f64)>);

impl Mix {
    /// The mean service time in ms.
    pub fn mean(&self) -> f64 {
        self.0.iter().map(|(share, time)| share * time).sum()
    }

    fn draw(&self, rng: &mut Rng) -> f64 {
        let mut left = rng.f64();
        for (share, time) in &self.0 {
            left -= share;
            if left < 0.0 {
                return *time;
            }
        }
        self.0[0].1
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<(f64, f64)> = text
            .split(',')
            .map(|part| {
                let (share, time) = part.split_once('x')?;
                Some((share.parse().ok()?, time.parse().ok()?))
            })
            .collect::<Option<_>>()
            .ok_or("it isn't a list of probability x milliseconds")?;
        let total: f64 = parts.iter().map(|(share, _)| share).sum();
        if (total - 1.0).abs() > 1e-6 {
            return Err(format!("the probabilities add up to {total}, not to 1"));
        }
        Ok(Self(parts))
    }
}

/// One request. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The time between the answer to the request before and this request; 0 for the first request
    /// of a connection.
    pub think: u64,
    /// How long the request keeps the worker busy, without the overhead.
    pub service: u64,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// When its SYN comes, in nanoseconds.
    pub at: u64,
    /// The connection's requests, at least one.
    pub requests: Vec<Request>,
}

/// What connections are drawn from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Service times.
    pub mix: Mix,
    /// How long a worker takes for any request on top of its service time, in ms.
    pub overhead: f64,
    /// A connection has 1 to this many requests.
    pub requests: u32,
    /// Mean time between an answer and the next request, in ms.
    pub think: f64,
    /// How many connections are drawn.
    pub connections: usize,
    /// How many workers there are. The load is a fraction of their capacity.
    pub workers: usize,
}

impl Source {
    /// Draws Poisson arrivals at this fraction of the capacity.
    pub fn draw(&self, load: f64, seed: u64) -> Vec<Connection> {
        let mut rng = Rng::with_seed(seed);
        let per_connection = f64::from(self.requests + 1) / 2.0;
        let capacity = self.workers as f64 / (self.mix.mean() + self.overhead);
        let gap = per_connection / (load * capacity);
        let mut at = 0.0;
        (0..self.connections)
            .map(|_| {
                at += exponential(&mut rng, gap);
                let requests = (0..rng.u32(1..=self.requests))
                    .map(|index| Request {
                        think: if index == 0 {
                            0
                        } else {
                            ns(exponential(&mut rng, self.think))
                        },
                        service: ns(self.mix.draw(&mut rng)),
                    })
                    .collect();
                Connection {
                    at: ns(at),
                    requests,
                }
            })
            .collect()
    }
}

/// Puts parts one after another: all connections of the first part, then those of the next, and so
/// on.
pub fn one_after_another(parts: impl Iterator<Item = Vec<Connection>>) -> Vec<Connection> {
    let mut all: Vec<Connection> = Vec::new();
    for part in parts {
        let after = all.last().map_or(0, |last| last.at);
        all.extend(part.into_iter().map(|connection| Connection {
            at: after + connection.at,
            ..connection
        }));
    }
    all
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// Which fraction of the workers' capacity connections take, from the start to the last arrival.
/// `overhead` is in ms.
pub fn load(connections: &[Connection], workers: usize, overhead: f64) -> f64 {
    let work: f64 = connections
        .iter()
        .flat_map(|connection| &connection.requests)
        .map(|request| ms(request.service) + overhead)
        .sum();
    let span = connections.last().map_or(0, |last| last.at);
    work / (ms(span) * workers as f64)
}
