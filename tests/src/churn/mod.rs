//! Load on a port while its workers come and go: who was there when, what became of every
//! connection and through whose fault, and how soon steer's maps followed.
//!
//! All times are of one clock, `CLOCK_MONOTONIC`, so that they can be compared between processes.

pub mod account;
pub mod claims;
pub mod crew;
pub mod ends;
pub mod load;
pub mod mark;
pub mod monitor;
pub mod spread;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Now, by `CLOCK_MONOTONIC`.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
