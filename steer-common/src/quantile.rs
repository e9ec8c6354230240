//! Which of some sorted values is a quantile.
//!
//! The median of five values is the third. Of four values, the median lies between the second and
//! the third: [`lower`] takes the second, and [`upper`] the third. In general `percent` of the
//! values come before the quantile, and the two functions differ only if that is a whole number of
//! values.

/// The first of the sorted values that at least `percent` of all values don't exceed. None if
/// there are no values.
pub fn lower<T: Copy>(sorted: &[T], percent: u64) -> Option<T> {
    let before = (sorted.len() as u64 * percent).div_ceil(100);
    sorted.get(before.saturating_sub(1) as usize).copied()
}

/// The first of the sorted values that more than `percent` of all values don't exceed, or the last
/// value. None if there are no values.
pub fn upper<T: Copy>(sorted: &[T], percent: u64) -> Option<T> {
    let rank = upper_rank(sorted.len() as u64, percent)?;
    sorted.get(rank as usize).copied()
}

/// How many of `count` sorted values come before the value that [`upper`] takes. None if there are
/// no values.
pub fn upper_rank(count: u64, percent: u64) -> Option<u64> {
    let before = u128::from(count) * u128::from(percent) / 100;
    Some((before as u64).min(count.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_odd_number_both_are_the_one_in_the_middle() {
        assert_eq!(lower(&[1, 2, 3, 4, 5], 50), Some(3));
        assert_eq!(upper(&[1, 2, 3, 4, 5], 50), Some(3));
    }

    #[test]
    fn between_two_each_takes_another() {
        assert_eq!(lower(&[1, 2, 3, 4], 50), Some(2));
        assert_eq!(upper(&[1, 2, 3, 4], 50), Some(3));
    }

    #[test]
    fn none_is_beyond_the_ends() {
        for quantile in [lower::<u8>, upper] {
            assert_eq!(quantile(&[], 50), None);
            assert_eq!(quantile(&[1, 2, 3], 0), Some(1));
            assert_eq!(quantile(&[1, 2, 3], 100), Some(3));
        }
        assert_eq!(upper_rank(u64::MAX, 100), Some(u64::MAX - 1));
    }

    /// Figures that were published before were calculated by a fraction. They stay the same.
    #[test]
    fn a_share_as_a_fraction_gives_the_same() {
        for count in 1..100_000_u64 {
            for (percent, share) in [(50, 0.5), (90, 0.9), (99, 0.99)] {
                let rank = (count as f64 * share) as u64;
                assert_eq!(upper_rank(count, percent), Some(rank), "{count} {percent}");
            }
        }
    }
}
