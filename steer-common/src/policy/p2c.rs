//! `p2c`: the power of two choices. Of two random workers, the one that would begin first is
//! taken.
//!
//! A selection costs the same for any number of workers. If many hosts choose at once, they don't
//! all take one worker.

use super::{least::OUTBID, scan::IDLE, steps::Steps};

/// More than any worker costs.
const UNBOUND: u64 = IDLE - 1;

#[inline(always)]
pub(super) fn choose<V: Steps>(view: &V) -> Option<u32> {
    let one = view.turn(u64::from(view.random()))?;
    let other = view.turn(u64::from(view.random()))?;
    // If neither worker may be selected, the caller finds another one.
    if one == other || load(view, one) <= load(view, other) {
        Some(one)
    } else {
        Some(other)
    }
}

/// What the worker of a slot costs, in the costs of `least`.
#[inline(always)]
fn load<V: Steps>(view: &V, slot: u32) -> u64 {
    match view.least_cost(slot, UNBOUND) {
        OUTBID => u64::MAX,
        cost => cost & !IDLE,
    }
}
