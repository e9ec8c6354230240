//! `p2c`: the power of two choices, the less loaded of two random workers.
//!
//! Its cost is the same for any number of workers, and many hosts that choose at once don't herd
//! onto one worker.

use crate::view::{Loop, View, YOUNG};

/// What a busy event loop counts for against a waiting one: more than any number of connections.
const BUSY: u64 = 1 << 32;

/// What [`load`] returns of a slot without a worker that may be selected.
pub const NONE: u64 = u64::MAX;

#[inline(always)]
pub(super) fn choose<V: View>(view: &V) -> Option<u32> {
    let one = view.turn(u64::from(view.random()))?;
    let other = view.turn(u64::from(view.random()))?;
    // Where neither may be selected, the caller finds another.
    if one == other || view.p2c_load(one) <= view.p2c_load(other) {
        Some(one)
    } else {
        Some(other)
    }
}

/// How loaded the worker of a slot is.
#[inline(always)]
pub fn load<V: View>(view: &V, slot: u32) -> u64 {
    let Some(worker) = view.worker(slot) else {
        return NONE;
    };
    let connections = u64::from(worker.active) + u64::from(view.handshakes(&worker)) + 1;
    let busy = match view.event_loop(&worker) {
        Loop::Waiting(YOUNG..) | Loop::Unknown => 0,
        Loop::Waiting(_) | Loop::Busy(_) => BUSY,
    };
    (busy + connections) * u64::from(worker.inverse_weight)
}
