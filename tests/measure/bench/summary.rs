//! Many measurements of one thing, in three numbers.

/// The middle of several measurements, and the range that half of them lie in.
///
/// Not the smallest and the largest: on a machine with other work those tell of that work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// The first quartile.
    pub(crate) low: f64,
    /// The second quartile.
    pub(crate) median: f64,
    /// The third quartile.
    pub(crate) high: f64,
}

impl Summary {
    /// None of no measurements.
    pub(crate) fn of(measurements: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measurements.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            low: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            high: quantile(&sorted, 0.75)?,
        })
    }
}

/// The value that `share` of the sorted ones lie below. If it falls between two of them it is neither: there are
/// few measurements, and they lie far apart, so [`steer_common::quantile`], which takes one, would be coarse.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = sorted.get(place.floor() as usize)?;
    let above = sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn quartiles() {
        let summary = Summary {
            low: 2.0,
            median: 3.0,
            high: 4.0,
        };
        assert_eq!(Summary::of([5.0, 1.0, 4.0, 2.0, 3.0]), Some(summary));
        let summary = Summary {
            low: 1.75,
            median: 2.5,
            high: 3.25,
        };
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 3.0]), Some(summary));
    }

    #[test]
    fn one_and_none() {
        let summary = Summary {
            low: 7.0,
            median: 7.0,
            high: 7.0,
        };
        assert_eq!(Summary::of([7.0]), Some(summary));
        assert_eq!(Summary::of([]), None);
    }
}
