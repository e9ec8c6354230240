//! How long tests wait for what must come.

use std::{env, sync::LazyLock, time::Duration};

/// The variable that says how much slower this machine is than a usual one, a whole number: an
/// emulated processor is. 1 where it isn't set.
pub const SLOWER: &str = "STEER_SLOWER";

static FACTOR: LazyLock<u32> = LazyLock::new(|| {
    let factor = env::var(SLOWER).ok().and_then(|value| value.parse().ok());
    factor.unwrap_or(1).max(1)
});

/// As long as `usual` on a usual machine. For limits, never for what a test measures.
pub fn patience(usual: Duration) -> Duration {
    usual * *FACTOR
}

/// Whether this machine is so slow that a test which needs to be fast to tell anything tells nothing.
pub fn is_slow() -> bool {
    *FACTOR > 1
}

/// The policies that spread a burst evenly here. To `least`, connections that take more than 4 ms to
/// come are no burst, which they do where the processor is emulated.
pub fn policies_in_a_burst() -> &'static [&'static str] {
    if is_slow() { &["rr"] } else { &["rr", "least"] }
}
