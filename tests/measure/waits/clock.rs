//! The one clock that client and workers share.

use std::num::NonZeroU64;

use anyhow::Context as _;
use rustix::{
    thread::{ClockId, Timespec, clock_nanosleep_absolute, set_current_timer_slack},
    time::clock_gettime,
};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A moment of CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// A time in nanoseconds, as system calls take it.
pub(crate) fn timespec(nanoseconds: u64) -> Timespec {
    Timespec {
        tv_sec: (nanoseconds / SECOND) as i64,
        tv_nsec: (nanoseconds % SECOND) as i64,
    }
}

/// Sleeps until a moment of [`now`].
///
/// # Errors
/// When a signal ends the sleep.
pub(crate) fn sleep_until(moment: u64) -> anyhow::Result<()> {
    clock_nanosleep_absolute(ClockId::Monotonic, &timespec(moment)).context("failed to sleep")
}

/// Has the thread's sleeps end on time and not, as usual, up to 50 µs later.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn exact_timers() -> anyhow::Result<()> {
    set_current_timer_slack(NonZeroU64::new(1)).context("failed to set the timer slack")
}
