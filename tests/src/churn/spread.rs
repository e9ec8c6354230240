//! How a number of durations are spread.

use std::{fmt, time::Duration};

use steer_common::quantile;

/// Durations, in the order in which they were measured.
#[derive(Clone, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The longest; zero where there is none.
    pub fn max(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    /// The mean; zero where there is none.
    pub fn mean(&self) -> Duration {
        let sum: Duration = self.0.iter().sum();
        sum.checked_div(self.0.len() as u32).unwrap_or_default()
    }

    /// The shortest one that at least `percent` of all don't exceed; zero where there is none.
    pub fn percentile(&self, percent: u64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        quantile::lower(&sorted, percent).unwrap_or_default()
    }

    /// How many exceed a limit.
    pub fn over(&self, limit: Duration) -> usize {
        self.0.iter().filter(|duration| **duration > limit).count()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| 1000.0 * duration.as_secs_f64();
        write!(
            f,
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms (n = {})",
            ms(self.percentile(50)),
            ms(self.percentile(99)),
            ms(self.max()),
            self.count()
        )
    }
}

/// As [`fmt::Display`]: thousands of durations would hide what an assertion is about.
impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_durations_that_were_measured() {
        let mut spread = Spread::default();
        assert_eq!(spread.percentile(50), Duration::ZERO);
        for milliseconds in (1..=200).rev() {
            spread.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(spread.percentile(50), Duration::from_millis(100));
        assert_eq!(spread.percentile(99), Duration::from_millis(198));
        assert_eq!(spread.max(), Duration::from_millis(200));
        assert_eq!(spread.over(Duration::from_millis(150)), 50);
    }
}
