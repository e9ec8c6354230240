//! The scale of waits in pictures, which is logarithmic.

use std::ops::RangeInclusive;

/// The scale's marks: powers of ten of a millisecond, from one end of the scale to the other.
pub(crate) const POWERS: RangeInclusive<i32> = LOW..=HIGH;
const LOW: i32 = -1;
const HIGH: i32 = 4;

/// How far along the scale a wait in ms is, from 0 to 1. A wait outside the scale is drawn at its
/// end.
pub(crate) fn place(wait: f64) -> f64 {
    let (low, high) = (f64::from(LOW), f64::from(HIGH));
    (wait.log10().clamp(low, high) - low) / (high - low)
}

/// The label at a power of ten of a millisecond.
pub(crate) fn label(power: i32) -> String {
    match power {
        LOW => "0.1 ms".to_owned(),
        0..=2 => format!("{}", 10_u32.pow(power as u32)),
        _ => format!("{} s", 10_u32.pow(power as u32 - 3)),
    }
}
