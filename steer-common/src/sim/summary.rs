//! What is reported of many waits.

use super::workload::ms;
use crate::quantile::upper;

/// Quantiles and the mean of a set of waits, in ms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 % are shorter.
    pub p90: f64,
    /// 99 % are shorter.
    pub p99: f64,
}

impl Waits {
    /// The quantiles of these waits, which are in nanoseconds. Sorts them.
    pub fn of(waits: &mut [u64]) -> Self {
        waits.sort_unstable();
        let quantile = |percent| ms(upper(waits, percent).unwrap_or(0));
        Self {
            mean: waits.iter().map(|wait| ms(*wait)).sum::<f64>() / waits.len().max(1) as f64,
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
        }
    }
}
