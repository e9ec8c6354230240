//! The connections of a run.

use steer_common::sim::{self, Connection, Mix, Source, ns};

use super::args::Args;

/// The part of a run that only warms the workers up.
const WARM_UP: f64 = 1.0 / 6.0;

/// What the connections of all runs have in common.
pub(super) struct Drawing {
    mix: Mix,
    workers: usize,
    seconds: f64,
    keep_alive: Option<u32>,
    think: f64,
}

impl Drawing {
    /// A drawing of connections that arrive for this many seconds.
    pub(super) fn new(args: &Args, seconds: f64) -> Self {
        Self {
            mix: args.mix.clone(),
            workers: args.workers,
            seconds,
            keep_alive: args.keep_alive,
            think: args.think,
        }
    }

    /// A word for this kind of connections, for file names.
    pub(super) fn name(&self) -> &'static str {
        if self.keep_alive.is_some() {
            "kept"
        } else {
            "fresh"
        }
    }

    /// When the warm-up is over, in nanoseconds from the start.
    pub(super) fn warm_up(&self) -> u64 {
        ns(self.seconds * 1000.0 * WARM_UP)
    }

    /// Draws Poisson arrivals at this fraction of the capacity. `overhead` is in ms.
    ///
    /// A few long requests more or less are some percent of a run's load. So fresh connections are
    /// moved apart or together until the load is what was asked for.
    ///
    /// Kept-alive connections last so long that the first ones would find hardly any load. So the
    /// run begins in the middle of a longer one. Connections come first that would be open by then
    /// in workers that make nobody wait, each with what is left of it.
    pub(super) fn draw(&self, load: f64, overhead: f64, seed: u64) -> Vec<Connection> {
        let requests = self.keep_alive.unwrap_or(1).max(1);
        let mean = self.mix.mean() + overhead;
        let before = match self.keep_alive {
            Some(_) => f64::from(requests) * (mean + self.think) * 2.0,
            None => 0.0,
        };
        let length = before + self.seconds * 1000.0;
        let rate = load * self.workers as f64 / mean / (f64::from(requests + 1) / 2.0);
        let source = Source {
            mix: self.mix.clone(),
            overhead,
            requests,
            think: self.think,
            // More connections than will come, in all likelihood. Only those of the run's time are
            // taken.
            connections: (length * rate * 1.2) as usize + 100,
            workers: self.workers,
        };
        let mut connections: Vec<Connection> = source
            .draw(load, seed)
            .into_iter()
            .take_while(|connection| connection.at < ns(length))
            .filter_map(|connection| from(ns(before), ns(overhead), connection))
            .collect();
        connections.sort_by_key(|connection| connection.at);
        if self.keep_alive.is_none() {
            let stretch = sim::load(&connections, self.workers, overhead) / load;
            for connection in &mut connections {
                connection.at = (connection.at as f64 * stretch) as u64;
            }
        }
        connections
    }
}

/// What is left of a connection at a moment, with times from then on. None if nothing is left.
fn from(moment: u64, overhead: u64, mut connection: Connection) -> Option<Connection> {
    let mut at = connection.at;
    let mut gone = 0;
    for request in &connection.requests {
        at += request.think;
        if at >= moment {
            break;
        }
        at += request.service + overhead;
        gone += 1;
    }
    connection.requests.drain(..gone);
    connection.requests.first_mut()?.think = 0;
    connection.at = at - moment;
    Some(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use steer_common::sim::Request;

    #[test]
    fn a_connection_goes_on_from_a_moment() {
        let connection = Connection {
            at: 10,
            requests: [(0, 5), (20, 5), (20, 6)]
                .map(|(think, service)| Request { think, service })
                .into(),
        };
        // The connection's requests would come at 10, 36 and 62.
        let left = |moment| {
            let left = from(moment, 1, connection.clone())?;
            Some((left.at, left.requests.len(), left.requests[0].think))
        };
        assert_eq!(left(0), Some((10, 3, 0)));
        assert_eq!(left(10), Some((0, 3, 0)));
        assert_eq!(left(11), Some((25, 2, 0)));
        assert_eq!(left(62), Some((0, 1, 0)));
        assert_eq!(left(63), None);
    }

    #[test]
    fn fresh_connections_fill_the_time() {
        let drawing = Drawing {
            mix: "1x10".parse().expect("a mix"),
            workers: 8,
            seconds: 10.0,
            keep_alive: None,
            think: 0.0,
        };
        let connections = drawing.draw(0.5, 0.0, 1);
        // There are 400 connections a second.
        assert!((3700..4300).contains(&connections.len()));
        assert!(connections.iter().all(|one| one.requests.len() == 1));
        let load = sim::load(&connections, 8, 0.0);
        assert!((load - 0.5).abs() < 1e-6, "{load}");
    }
}
