//! Which workers may be selected at all, decided once for every policy.

use steer_common::{
    config::{GroupConfig, SlotSet},
    counters::GroupCounters,
};

/// The sets of workers, the best first. A selection uses the first that isn't empty.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Tier {
    /// The workers that are ready and not ejected.
    Ready = 0,
    /// The workers on standby that are not ejected. Used if no ready worker is left.
    Standby,
    /// Every live worker, draining or ejected or not. Used if the two other sets are empty.
    Live,
}

impl Tier {
    #[inline(always)]
    pub(crate) fn of(config: &GroupConfig, counters: *const GroupCounters) -> Self {
        if any(&config.ready, counters) {
            Self::Ready
        } else if any(&config.standby, counters) {
            Self::Standby
        } else {
            Self::Live
        }
    }

    #[inline(always)]
    pub(crate) fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Ready,
            1 => Self::Standby,
            _ => Self::Live,
        }
    }

    /// Whether the slot is in this tier.
    #[inline(always)]
    pub(crate) fn admits(
        self,
        config: &GroupConfig,
        counters: *const GroupCounters,
        slot: u32,
    ) -> bool {
        let set = self.set(config);
        let ejected = !matches!(self, Self::Live) && contains(ejected(counters), slot);
        contains(set, slot) && !ejected
    }

    /// Whether the turns that the loader has laid out are those of this tier's workers.
    #[inline(always)]
    pub(crate) fn has_turns(self, counters: *const GroupCounters) -> bool {
        let ejected = ejected(counters);
        matches!(self, Self::Ready) && ejected[0] | ejected[1] | ejected[2] | ejected[3] == 0
    }

    /// The slot that a ticket names if [`Tier::has_turns`] is false: the tier's slots in order,
    /// whatever their weights. [`NONE`] if the tier is empty.
    #[inline(always)]
    pub(crate) fn nth(
        self,
        config: &GroupConfig,
        counters: *const GroupCounters,
        ticket: u64,
    ) -> u32 {
        let set = self.set(config);
        let ejected = ejected(counters);
        let keep = |word: usize| match self {
            Self::Live => set[word],
            Self::Ready | Self::Standby => set[word] & !ejected[word],
        };
        nth(keep(0), keep(1), keep(2), keep(3), ticket)
    }

    #[inline(always)]
    fn set(self, config: &GroupConfig) -> &SlotSet {
        match self {
            Self::Ready => &config.ready,
            Self::Standby => &config.standby,
            Self::Live => &config.live,
        }
    }
}

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// Whether a slot is in a set.
#[inline(always)]
fn contains(set: &SlotSet, slot: u32) -> bool {
    // LLVM would leave out a mask if it can prove that the slot is small enough, by a proof that
    // the verifier doesn't follow. LLVM doesn't look into assembly.
    let mut word = slot as usize / 64;
    // SAFETY: the assembly is one instruction that changes only the register of `word`.
    unsafe { core::arch::asm!("{0} &= 3", inout(reg) word) };
    // SAFETY: `word` is 3 at most after the mask, and a set has four words.
    let bits = unsafe { *set.get_unchecked(word) };
    bits >> (slot % 64) & 1 != 0
}

#[inline(always)]
fn any(set: &SlotSet, counters: *const GroupCounters) -> bool {
    let ejected = ejected(counters);
    (0..set.len()).any(|word| set[word] & !ejected[word] != 0)
}

#[inline(always)]
fn ejected(counters: *const GroupCounters) -> &'static SlotSet {
    // SAFETY: `counters` points to a map value, which is valid as long as the program runs. Other
    // processors change bits meanwhile, so a worker may be in one selection and not in the next.
    unsafe { &(*counters).ejected }
}

/// The slot of the bit at `ticket` modulo the number of ones in the four words, which hold the
/// slots 0 to 255. [`NONE`] if there are no ones. The verifier looks at this function once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nth(first: u64, second: u64, third: u64, fourth: u64, ticket: u64) -> u32 {
    let words = [first, second, third, fourth];
    let mut count = 0;
    for word in words {
        count += ones(word);
    }
    if count == 0 {
        return NONE;
    }
    let mut rank = ticket % count;
    let mut base = 0;
    for word in words {
        let here = ones(word);
        if rank < here {
            return base + select(word, rank);
        }
        rank -= here;
        base += 64;
    }
    NONE
}

#[inline(always)]
fn ones(word: u64) -> u64 {
    u64::from(word.count_ones())
}

/// The position of the one bit that has `rank` one bits below it.
#[inline(always)]
fn select(word: u64, mut rank: u64) -> u32 {
    let mut position = 0;
    let mut width = 32;
    let mut word = word;
    while width > 0 {
        let low = ones(word & ((1 << width) - 1));
        if rank >= low {
            rank -= low;
            position += width;
            word >>= width;
        }
        width /= 2;
    }
    position
}
