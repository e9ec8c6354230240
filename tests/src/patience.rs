//! How long tests wait for what must come.

use std::{env, sync::LazyLock, time::Duration};

/// The variable that says how much slower this machine is than a usual one, a whole number: an
/// emulated processor is. 1 where it isn't set.
pub const SLOWER: &str = "STEER_SLOWER";

/// How much longer than on a quiet machine what must come may take. Whoever runs the tests also does
/// other things, and a limit costs nothing where it isn't reached.
const BUSY: u32 = 8;

static FACTOR: LazyLock<u32> = LazyLock::new(|| {
    let factor = env::var(SLOWER).ok().and_then(|value| value.parse().ok());
    factor.unwrap_or(1).max(1)
});

/// The limit for what takes `usual` at most on a quiet machine. Never for what a test measures: that
/// is compared with something else of the same run.
pub fn patience(usual: Duration) -> Duration {
    usual * BUSY * *FACTOR
}

/// Milliseconds of something that goes on while a test does what a usual machine does in a part of
/// `usual`, as a worker that is kept busy. At most a minute.
pub fn slowed(usual: u32) -> u32 {
    (usual * *FACTOR).min(60_000)
}

/// Whether this machine is so slow that a test which needs to be fast to tell anything tells nothing.
pub fn is_slow() -> bool {
    *FACTOR > 1
}
