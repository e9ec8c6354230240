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
//! The scan goes in parts ([`Scan`] is what one hands to the next), each a function of its own in the kernel:
//! the verifier follows every iteration of a loop, so that sixteen times sixteen steps are thirty-two to it.

use crate::{
    limits::{MAX_SLOTS, PART},
    view::{Loop, View, YOUNG},
};

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

/// How far a scan has come: the cost of the best worker so far, how many may still be asked for their
/// expensive signals, and at which step the best one is. One integer, as a function of the kernel's
/// returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Scan(pub u64);

impl Scan {
    /// Bits of the step, of how many may be asked, and of the cost; above them is [`IDLE`].
    const STEP_BITS: u32 = MAX_SLOTS.ilog2();
    const LEFT_BITS: u32 = 9;
    const COST_BITS: u32 = 63 - Self::STEP_BITS - Self::LEFT_BITS;

    /// Where nobody was found: more than any cost.
    const NOBODY: u64 = (1 << Self::COST_BITS) - 1;

    #[inline(always)]
    fn new(finalists: u64) -> Self {
        let left = finalists.min((1 << Self::LEFT_BITS) - 1);
        Self(Self::pack(Self::NOBODY, left, 0))
    }

    #[inline(always)]
    const fn pack(cost: u64, left: u64, step: u64) -> u64 {
        (cost << Self::LEFT_BITS | left) << Self::STEP_BITS | step
    }

    #[inline(always)]
    const fn cost(self) -> u64 {
        self.0 >> (Self::STEP_BITS + Self::LEFT_BITS)
    }

    #[inline(always)]
    const fn left(self) -> u64 {
        self.0 >> Self::STEP_BITS & ((1 << Self::LEFT_BITS) - 1)
    }

    #[inline(always)]
    const fn step(self) -> u32 {
        self.0 as u32 & (MAX_SLOTS - 1)
    }

    #[inline(always)]
    const fn has_ended(self) -> bool {
        self.0 & IDLE != 0 || self.left() == 0
    }
}

/// Goes on with a scan that began at the slot `start`, from step `first` on.
#[inline(always)]
pub fn part<V: View>(view: &V, start: u32, first: u32, scan: Scan, costs: Costs) -> Scan {
    let mask = view.slot_mask();
    let mut scan = scan;
    for step in 0..PART {
        let step = first + step;
        if step > mask {
            break;
        }
        let cost = view.least_cost((start + step) & mask, scan.cost(), costs);
        if cost == OUTBID {
            continue;
        }
        if cost & IDLE != 0 {
            return Scan(IDLE | u64::from(step));
        }
        let left = scan.left() - 1;
        scan = if cost == LOST {
            Scan(Scan::pack(scan.cost(), left, scan.step().into()))
        } else {
            Scan(Scan::pack(cost.min(Scan::NOBODY - 1), left, step.into()))
        };
        if left == 0 {
            break;
        }
    }
    scan
}

/// Names a slot by other costs than steer's, for the simulator.
#[inline(always)]
pub fn choose<V: View>(view: &V, costs: Costs) -> Option<u32> {
    let mask = view.slot_mask();
    let turn = view.ticket().wrapping_mul(STRIDE);
    let start = view.turn(turn.wrapping_add(view.shift()))?;
    let mut scan = Scan::new(costs.finalists);
    for part in 0..MAX_SLOTS / PART {
        let first = part * PART;
        if first > mask || scan.has_ended() {
            break;
        }
        scan = view.least_part(start, first, scan, costs);
    }
    (scan.cost() != Scan::NOBODY).then_some((start + scan.step()) & mask)
}
