//! `p2c`: the power of two choices, the one of two random workers that would begin first.
//!
//! Its cost is the same for any number of workers, and many hosts that choose at once don't herd
//! onto one worker.

use super::{least::OUTBID, scan::IDLE, steps::Steps};

/// More than any worker costs.
const UNBOUND: u64 = IDLE - 1;

#[inline(always)]
pub(super) fn choose<V: Steps>(view: &V) -> Option<u32> {
    let one = view.turn(u64::from(view.random()))?;
    let other = view.turn(u64::from(view.random()))?;
    // Where neither may be selected, the caller finds another.
    if one == other || load(view, one) <= load(view, other) {
        Some(one)
    } else {
        Some(other)
    }
}

/// What the worker of a slot costs, by what `least` goes by.
#[inline(always)]
fn load<V: Steps>(view: &V, slot: u32) -> u64 {
    match view.least_cost(slot, UNBOUND) {
        OUTBID => u64::MAX,
        cost => cost & !IDLE,
    }
}
