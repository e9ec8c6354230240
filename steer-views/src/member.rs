//! One worker.

use steer_common::view::{Loop, YOUNG};

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
            event_loop: Loop::IDLE,
        }
    }

    /// Whether it is busy, or about to be.
    pub const fn is_busy(&self) -> bool {
        matches!(self.event_loop, Loop::Busy(_) | Loop::Waiting(..YOUNG))
    }

    /// Connections that it has and is about to have, and one more, for its weight.
    pub fn load(&self) -> f64 {
        f64::from(self.active + self.handshakes + 1) / f64::from(self.weight)
    }
}
