//! `least`: the smallest (connections + handshakes in flight + 1) / weight.
//!
//! Two stages, because handshakes cost a read of kernel memory each: the count of open connections
//! is a lower bound, and only a worker whose bound could still win is asked for its handshakes.
//! The scan starts at the slot whose turn it is, so ties go round in the order of `rr`.
//!
//! The best choice so far is one integer, cost above and step below, and opaque to the kernel's
//! verifier: it follows every iteration, and must find that they are all alike.

use crate::{limits::MAX_SLOTS, view::View};

/// Bits of the step below the cost.
const STEP_BITS: u32 = MAX_SLOTS.ilog2();

#[inline(always)]
pub(super) fn choose<V: View>(view: &V) -> Option<u32> {
    let mask = view.slot_mask();
    let start = view.turn(view.ticket())?;
    let mut best = view.opaque(u64::MAX);
    for step in 0..MAX_SLOTS {
        if step > mask {
            break;
        }
        let Some(worker) = view.eligible((start + step) & mask) else {
            continue;
        };
        let inverse = u64::from(worker.inverse_weight);
        let load = u64::from(worker.active) + 1;
        let cost = |load: u64| (load * inverse) << STEP_BITS | view.opaque(u64::from(step));
        if cost(load) >= best {
            continue;
        }
        best = best.min(cost(load + u64::from(view.handshakes(&worker))));
    }
    (best != u64::MAX).then(|| (start + (best as u32 & (MAX_SLOTS - 1))) & mask)
}
