//! One worker of a group.

use steer_common::view::Loop;

/// One worker of a group.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Whether the worker may be selected.
    pub eligible: bool,
    /// The worker's share relative to the shares of the others.
    pub weight: u32,
    /// How many connections the worker has not closed.
    pub active: u32,
    /// How many handshakes are in flight on the worker's listener.
    pub handshakes: u32,
    /// How many connections the worker hasn't read from yet.
    pub fresh: u32,
    /// How many other connections have a request that waits.
    pub ready: u32,
    /// What the worker's event loop does.
    pub event_loop: Loop,
}

impl Member {
    /// A worker that may be selected and has nothing to do.
    pub const fn idle(weight: u32) -> Self {
        Self {
            eligible: true,
            weight,
            active: 0,
            handshakes: 0,
            fresh: 0,
            ready: 0,
            event_loop: Loop::Waiting,
        }
    }

    /// Whether the worker would begin with a connection at once, as far as that is known.
    pub fn is_idle(&self) -> bool {
        self.event_loop == Loop::Waiting && self.handshakes == 0 && self.fresh == 0
    }

    /// How many nanoseconds the worker takes until it has done one more job of this mean duration,
    /// divided by its weight, if it isn't idle. An open connection counts for a microsecond.
    pub fn time(&self, mean: u64) -> f64 {
        let connections = f64::from(self.active) + 1.0;
        let (rest, waiting) = match self.event_loop {
            Loop::Unknown => {
                let load = connections + f64::from(self.handshakes);
                return 1024.0 * load / f64::from(self.weight);
            }
            Loop::Waiting => (0, 0),
            Loop::Between => (0, self.ready),
            Loop::Busy(age) => (rest(mean, age), self.ready),
        };
        let waiting = f64::from(waiting) + f64::from(self.fresh) + f64::from(self.handshakes);
        (rest as f64 + (waiting + 1.0) * mean as f64 + 1024.0 * connections)
            / f64::from(self.weight)
    }
}

/// How long a job of this age still takes if all jobs take `mean`. A job that is older than that
/// takes as long again. All in the same unit.
#[inline(always)]
pub const fn rest(mean: u64, age: u64) -> u64 {
    if age < mean { mean - age } else { age }
}
