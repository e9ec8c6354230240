//! One worker.

use steer_common::view::Loop;

/// One worker of a group.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Whether it may be selected.
    pub eligible: bool,
    /// Its share relative to the others'.
    pub weight: u32,
    /// Connections that it has not closed.
    pub active: u32,
    /// Handshakes in flight on its listener.
    pub handshakes: u32,
    /// Connections that it hasn't read from yet.
    pub fresh: u32,
    /// Others on which a request waits.
    pub ready: u32,
    /// What its event loop does.
    pub event_loop: Loop,
}

impl Member {
    /// One that may be selected and has nothing to do.
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

    /// Whether it would begin with a connection at once, as far as that is known.
    pub fn is_idle(&self) -> bool {
        self.event_loop == Loop::Waiting && self.handshakes == 0 && self.fresh == 0
    }

    /// How many nanoseconds it takes until it has done one more job of this mean duration, by its weight, where
    /// it isn't idle. An open connection counts for a microsecond.
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

/// How long a job of this age still takes where all take the same; for as long again where it is older.
#[inline(always)]
pub const fn rest(mean: u64, age: u64) -> u64 {
    if age < mean { mean - age } else { age }
}
