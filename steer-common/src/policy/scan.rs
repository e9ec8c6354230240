//! What one part of a scan for the cheapest worker hands to the next.

use crate::limits::MAX_SLOTS;

/// Set in the cost of a worker that has nothing at all to do. No worker can win against it.
pub(super) const IDLE: u64 = 1 << 63;

/// How far a scan has come: the cost of the best worker so far, how many workers may still be
/// asked for their expensive signals, and at which step the best worker is. It is one integer, so
/// that a function of the kernel program can return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Scan(pub u64);

impl Scan {
    /// How many bits the step has, the number of workers that may still be asked, and the cost.
    /// The bit above them is [`IDLE`].
    const STEP_BITS: u32 = MAX_SLOTS.ilog2();
    const LEFT_BITS: u32 = 9;
    pub(super) const COST_BITS: u32 = 63 - Self::STEP_BITS - Self::LEFT_BITS;

    /// The cost if nobody was found, which is more than any worker costs.
    pub(super) const NOBODY: u64 = (1 << Self::COST_BITS) - 1;

    /// The beginning of a scan that may ask this many workers.
    #[inline(always)]
    pub(super) const fn begin(finalists: u32) -> Self {
        Self(Self::pack(Self::NOBODY, finalists as u64, 0))
    }

    #[inline(always)]
    pub(super) const fn pack(cost: u64, left: u64, step: u64) -> u64 {
        (cost << Self::LEFT_BITS | left) << Self::STEP_BITS | step
    }

    #[inline(always)]
    pub(super) const fn cost(self) -> u64 {
        self.0 >> (Self::STEP_BITS + Self::LEFT_BITS)
    }

    #[inline(always)]
    pub(super) const fn left(self) -> u64 {
        self.0 >> Self::STEP_BITS & ((1 << Self::LEFT_BITS) - 1)
    }

    #[inline(always)]
    pub(super) const fn step(self) -> u32 {
        self.0 as u32 & (MAX_SLOTS - 1)
    }

    #[inline(always)]
    pub(super) const fn has_ended(self) -> bool {
        self.0 & IDLE != 0 || self.left() == 0
    }
}
