//! `least`: the worker that would begin with the connection first.
//!
//! If a worker's event loop waits, the worker begins at once. It costs nothing, however many
//! connections it holds open. A busy worker first ends the job that it has in hand. What is left
//! of that job is what jobs of that age had left so far. Then the worker does what waits before
//! this connection, and each of these counts as a mean job: handshakes in flight, connections that
//! the worker hasn't read from yet, accepted or not, and connections on which another request has
//! come. How long jobs take is learned from the jobs that have ended ([`crate::learn`]). The sum
//! is divided by the worker's weight. docs/policies.md says what that is worth.
//!
//! Among equals open connections decide, each of which counts for a microsecond. If event loops
//! can't be seen at all, open connections and handshakes are all that counts.
//!
//! Each expensive signal costs a read of kernel memory. So the cheap signals come first, and a
//! worker that can't win any more isn't asked for the rest. A worker with nothing at all to do
//! ends the scan. The scan starts at the slot whose turn it is, so ties go round.
//!
//! Some selections come to nothing: health checks reset the handshake. After each of these the
//! turns are shifted by any number. Else a health check that comes before every connection would
//! always take the turn of the same idle workers.
//!
//! The scan goes in parts, and in the kernel each part is a function of its own. [`super::Scan`]
//! is what one part hands to the next. The verifier follows every iteration of a loop, so sixteen
//! parts of sixteen steps each are thirty-two steps to it.

use super::{
    scan::{IDLE, Scan},
    steps::Steps,
};
use crate::{
    limits::{MAX_SLOTS, PART},
    view::{Loop, View, Worker},
};

/// A ticket is multiplied by this number to get the start of the scan. It is a prime, so each turn
/// is still the start once a round, but neighbours in time are not neighbours in the group.
/// Otherwise the scan would begin among the workers that the selections before have just made
/// busy.
const STRIDE: u64 = 2_654_435_761;

/// How many workers are asked for their expensive signals in one selection. If all of so many are
/// busy, the whole group is.
pub const FINALISTS: u32 = 24;

/// For how many connections with a request the list of a worker's event loop is searched. Each of
/// them takes half a dozen reads of kernel memory.
pub const READY: u32 = 8;

/// [`cost`] returns this for a slot that has no worker, or whose worker can't win by its
/// connections alone.
pub const OUTBID: u64 = 0;

/// [`cost`] returns this for a worker that was asked for its expensive signals, and lost.
pub const LOST: u64 = 1;

/// What a worker costs more than any worker that would begin at once.
const OCCUPIED: u64 = 1 << (Scan::COST_BITS - 1);

/// The unit of a cost is 2^this nanoseconds. That is about a microsecond, for which an open
/// connection counts.
const UNIT_BITS: u32 = 10;

/// The longest time in nanoseconds, and the most connections, that count. With these and the
/// largest [`Worker::inverse_weight`], 2^20, what [`weigh`] returns is less than [`OCCUPIED`].
const LONGEST: u64 = 1 << 43;
const MOST: u32 = 1 << 20;

/// By how many bits the product of units and an inverse weight is shifted. That leaves ten bits of
/// fractions for weights.
const WEIGHT_BITS: u32 = 10;

/// The cost of this many nanoseconds and of the worker's open connections with `more` of them,
/// divided by the worker's weight.
#[inline(always)]
fn weigh(worker: &Worker, time: u64, more: u32) -> u64 {
    let connections = worker.active.saturating_add(more).min(MOST);
    let units = (time.min(LONGEST) >> UNIT_BITS) + u64::from(connections) + 1;
    (units * u64::from(worker.inverse_weight)) >> WEIGHT_BITS
}

/// What this many jobs take together, in nanoseconds. No mean and no number of jobs is too large
/// for the product.
#[inline(always)]
fn jobs(mean: u64, count: u32) -> u64 {
    mean.min(LONGEST) * u64::from(count.min(MOST))
}

/// What the worker of a slot costs, if that is less than `bound`. Else [`OUTBID`] or [`LOST`].
/// `IDLE` is set in the cost of a worker that has nothing at all to do.
#[inline(always)]
pub fn cost<V: View>(view: &V, slot: u32, bound: u64) -> u64 {
    let Some(worker) = view.worker(slot) else {
        return OUTBID;
    };
    let at_once = weigh(&worker, 0, 0);
    if at_once >= bound {
        return OUTBID;
    }
    let event_loop = view.event_loop(&worker);
    if event_loop == Loop::Unknown {
        let handshakes = view.handshakes(&worker);
        return less(OCCUPIED + weigh(&worker, 0, handshakes), bound);
    }
    // The cost after the connection that is to be placed is done, too: a worker with twice the
    // weight does it in half the time.
    let after = |mean: u64, rest: u64, waiting: u32| {
        let time = rest.min(LONGEST) + jobs(mean, waiting.saturating_add(1));
        OCCUPIED + weigh(&worker, time, 0)
    };
    let (rest, is_busy) = match event_loop {
        Loop::Busy(age) => (view.rest(age), true),
        Loop::Between => (0, true),
        Loop::Waiting | Loop::Unknown => (0, false),
    };
    let mut waiting = view.fresh(&worker).min(MOST);
    if (is_busy || waiting > 0) && after(view.mean(), rest, waiting) >= bound {
        return LOST;
    }
    waiting += view.handshakes(&worker).min(MOST);
    if !is_busy && waiting == 0 {
        return match worker.active {
            0 => at_once | IDLE,
            _ => at_once,
        };
    }
    let mean = view.mean();
    if !is_busy {
        return less(after(mean, 0, waiting), bound);
    }
    let so_far = after(mean, rest, waiting);
    if so_far >= bound {
        return LOST;
    }
    // With `most` more requests the worker has lost. If a loop counted these, Linux 6.1 verified
    // 136,195 instructions of `select`; by this division it is 74,612.
    let each = (after(mean, rest, waiting + 1) - so_far).max(1);
    let most = ((bound - so_far) / each + 2).min(READY.into()) as u32;
    let ready = view.ready(&worker, most);
    less(after(mean, rest, waiting + ready), bound)
}

#[inline(always)]
fn less(cost: u64, bound: u64) -> u64 {
    if cost < bound { cost } else { LOST }
}

/// Goes on with a scan that began at the slot `start`, from step `first` on.
#[inline(always)]
pub fn part<V: Steps>(view: &V, start: u32, first: u32, scan: Scan) -> Scan {
    let mask = view.slot_mask();
    let mut scan = scan;
    for step in 0..PART {
        let step = first + step;
        if step > mask {
            break;
        }
        let cost = view.least_cost((start + step) & mask, scan.cost());
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
            Scan(Scan::pack(cost, left, step.into()))
        };
        if left == 0 {
            break;
        }
    }
    scan
}

/// Names a slot. None if no worker may be selected.
#[inline(always)]
pub fn choose<V: Steps>(view: &V) -> Option<u32> {
    let mask = view.slot_mask();
    let turn = view.ticket().wrapping_mul(STRIDE);
    let start = view.turn(turn.wrapping_add(view.shift()))?;
    let mut scan = Scan::begin(FINALISTS);
    for part in 0..MAX_SLOTS / PART {
        let first = part * PART;
        if first > mask || scan.has_ended() {
            break;
        }
        scan = view.least_part(start, first, scan);
    }
    (scan.cost() != Scan::NOBODY).then_some((start + scan.step()) & mask)
}
