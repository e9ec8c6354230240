//! Many measurements of one thing, in three numbers.

/// The middle one of several measurements, and the two that lie furthest out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Half of them are no larger. Of an even number, the mean of the two in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Summary {
    /// None of no measurements.
    pub(crate) fn of(measurements: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measurements.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn odd_and_even() {
        let summary = |median| {
            Some(Summary {
                median,
                min: 1.0,
                max: 9.0,
            })
        };
        assert_eq!(Summary::of([9.0, 1.0, 2.0]), summary(2.0));
        assert_eq!(Summary::of([9.0, 1.0, 2.0, 4.0]), summary(3.0));
    }

    #[test]
    fn nothing() {
        assert_eq!(Summary::of([]), None);
    }
}
