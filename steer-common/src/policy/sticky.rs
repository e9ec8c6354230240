//! `sticky`: always the same worker for the same client, by weighted rendezvous hashing.
//!
//! Each worker gets a score for the client, and the best score wins. So when a worker leaves, only
//! its own clients move, and when it returns, they come back.

use super::{mix::mix, steps::Steps};
use crate::{
    limits::{MAX_SLOTS, PART},
    view::View,
};

#[inline(always)]
pub(super) fn choose<V: Steps>(view: &V) -> Option<u32> {
    view.rendezvous(view.client())
}

/// The slot of the worker whose score for a key is the best. None if no worker may be selected.
#[inline(always)]
pub fn rendezvous<V: Steps>(view: &V, key: u32) -> Option<u32> {
    let mask = view.slot_mask();
    let mut best = NONE;
    for part in 0..MAX_SLOTS / PART {
        let first = part * PART;
        if first > mask {
            break;
        }
        best = view.rendezvous_part(first, key, best);
    }
    (best != NONE).then_some(best as u32 & (MAX_SLOTS - 1))
}

/// The best of the slots from `first` on and of the best so far. The result has the score, and the
/// slot in its lowest 8 bits.
#[inline(always)]
pub fn part<V: Steps>(view: &V, first: u32, key: u32, best: u64) -> u64 {
    let mask = view.slot_mask();
    let mut best = best;
    for slot in 0..PART {
        let slot = first + slot;
        if slot > mask {
            break;
        }
        let score = view.sticky_score(slot, key);
        if score != NONE {
            best = best.min((score << 8) | u64::from(slot));
        }
    }
    best
}

/// [`score`] returns this for a slot without a worker that may be selected.
pub const NONE: u64 = u64::MAX;

/// How badly the worker of a slot fits a key, such as a client's hash. The smallest score wins.
#[inline(always)]
pub fn score<V: View>(view: &V, slot: u32, key: u32) -> u64 {
    let Some(worker) = view.worker(slot) else {
        return NONE;
    };
    let draw = mix(key, view.identity(&worker));
    // The score is an exponential variable divided by the weight. Of several of these, each is the
    // smallest with a probability in proportion to its weight.
    u64::from(minus_log2(draw)) * u64::from(worker.inverse_weight)
}

/// -log2(draw / 2^32) in units of 2^-20, by the exponent and a polynomial for the rest. Its error
/// is below 0.001.
#[inline(always)]
pub(super) fn minus_log2(draw: u32) -> u32 {
    let draw = draw | 1;
    let exponent = draw.leading_zeros();
    // The fraction above the leading one bit: 0 to 1, in units of 2^-16.
    let fraction = u64::from(((draw << exponent) & 0x7fff_ffff) >> 15);
    // log2(1 + x) = x + x(1 - x)(0.4228 - 0.1638 x), which is fitted at both ends and in the
    // middle.
    let rest = 65_536 - fraction;
    let bow = (27_706 * 65_536 - 10_735 * fraction) >> 16;
    let log = fraction + ((((fraction * rest) >> 16) * bow) >> 16);
    ((u64::from(exponent) + 1) << 20).wrapping_sub(log << 4) as u32
}
