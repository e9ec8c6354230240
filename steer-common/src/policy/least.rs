//! `least`: a worker whose event loop waits, and of these, or of the busy ones, the least loaded.
//!
//! A worker costs, divided by its weight, one more than its open connections and handshakes in
//! flight. One that is known to be busy also costs as much as [`Costs::busy`] connections, and more
//! the longer it has been: a job that has run for long is likely to run on for as long again. One
//! that waits for the request of a connection just made counts as just busy, or a burst would go to
//! whoever reads slowest. docs/policies.md says where the numbers come from.
//!
//! Two stages, because each expensive signal costs a read of kernel memory: the count of open
//! connections is a lower bound of the cost, and only a worker whose bound could still win is asked
//! for the rest. A worker with nothing at all to do ends the scan. The scan starts at the slot
//! whose turn it is, so ties go round. Where selections come to nothing (health checks that reset a handshake)
//! the turns are shifted each time by any number: else such a check that comes before every connection would always
//! take the turn of the same idle workers.
//!
//! The best choice so far is one integer, cost above and step below, and opaque to the kernel's
//! verifier: it follows every iteration, and must find that they are all alike.

use crate::{
    limits::MAX_SLOTS,
    view::{Loop, View, YOUNG},
};

/// Bits of the step below the cost.
const STEP_BITS: u32 = MAX_SLOTS.ilog2();

/// Tickets are multiplied by it to get the start of the scan. It is a prime, so each turn is still the
/// start once a round, but neighbours in time are not neighbours in the group: else the scan would
/// begin among the workers that the selections before have just made busy.
const STRIDE: u64 = 2_654_435_761;

/// What counts for how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// What being busy counts for, in connections.
    pub busy: u64,
    /// Being busy for 2^this ns counts for one connection more.
    pub busy_shift: u32,
    /// The most that being busy for long counts for, in connections.
    pub busy_longest: u64,
    /// What a handshake in flight counts for, in connections.
    pub handshake: u64,
    /// How many workers are asked for their expensive signals in one selection.
    pub finalists: u64,
}

impl Costs {
    /// What the kernel program goes by.
    pub const STEER: Self = Self {
        busy: 1 << 14,
        busy_shift: 22,
        busy_longest: 16,
        handshake: 1,
        finalists: 24,
    };
}

/// What [`cost`] returns of a slot that can't win by its connections alone, or has no worker.
pub const OUTBID: u64 = 0;

/// What it returns of a worker that was asked for its expensive signals, and lost.
pub const LOST: u64 = 1;

/// Set in what it returns of a worker that has nothing at all to do: none can win against it.
pub const IDLE: u64 = 1 << 63;

/// What the worker of a slot costs, where that is less than `bound`.
#[inline(always)]
pub fn cost<V: View>(view: &V, slot: u32, bound: u64, costs: Costs) -> u64 {
    let Some(worker) = view.worker(slot) else {
        return OUTBID;
    };
    let weighed = |load: u64| load * u64::from(worker.inverse_weight);
    let connections = u64::from(worker.active) + 1;
    if weighed(connections) >= bound {
        return OUTBID;
    }
    let event_loop = view.event_loop(&worker);
    let known_busy = match event_loop {
        Loop::Waiting(YOUNG..) | Loop::Unknown => 0,
        Loop::Waiting(_) => costs.busy,
        Loop::Busy(time) => costs.busy + (time >> costs.busy_shift).min(costs.busy_longest),
    };
    // Handshakes only matter among those that are in the running still.
    if weighed(connections + known_busy) >= bound {
        return LOST;
    }
    let handshakes = u64::from(view.handshakes(&worker));
    // A loop that waits with a handshake in flight is as good as busy already.
    let busy = if handshakes > 0 && event_loop != Loop::Unknown {
        known_busy.max(costs.busy)
    } else {
        known_busy
    };
    let load = connections + busy + costs.handshake * handshakes;
    if load == 1 {
        return weighed(load) | IDLE;
    }
    if weighed(load) >= bound {
        return LOST;
    }
    weighed(load)
}

/// Names a slot by other costs than steer's, for the simulator.
#[inline(always)]
pub fn choose<V: View>(view: &V, costs: Costs) -> Option<u32> {
    let mask = view.slot_mask();
    let turn = view.ticket().wrapping_mul(STRIDE);
    let start = view.turn(turn.wrapping_add(view.shift()))?;
    let mut best = view.opaque(u64::MAX);
    let mut finalists = view.opaque(costs.finalists);
    for step in 0..MAX_SLOTS {
        if step > mask {
            break;
        }
        let slot = (start + step) & mask;
        let cost = view.least_cost(slot, best >> STEP_BITS, costs);
        if cost == OUTBID {
            continue;
        }
        if cost & IDLE != 0 {
            return Some(slot);
        }
        if cost != LOST {
            best = (cost << STEP_BITS) | view.opaque(u64::from(step));
        }
        finalists = view.opaque(finalists - 1);
        if finalists == 0 {
            break;
        }
    }
    if best == u64::MAX {
        return None;
    }
    Some((start + (best as u32 & (MAX_SLOTS - 1))) & mask)
}
