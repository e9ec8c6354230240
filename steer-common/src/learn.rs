//! How long the jobs of a group's workers take, learned from those that have ended.
//!
//! A job is what keeps an event loop from everything else: a request, mostly. What matters of one that a
//! worker has in hand is how long it will still take, given its age:
//!
//! - If all jobs take the same, the oldest is done first.
//! - If durations are exponential, the age says nothing.
//! - If few jobs take most of the time, what has run for long runs on.
//!
//! So the rest of a job of some age is the mean of the jobs that took longer than that, less the age. The jobs
//! are counted in bins of a quarter of an octave, with the sum of their durations: for equal jobs the rest is
//! exact, however wide the bin is.
//!
//! There are two halves of [`HALF`] jobs each; the older one is dropped when the newer one is full. So what is
//! known is of the last [`HALF`] jobs to twice as many, and another mix of jobs is learned after as many.

use bytemuck::{Pod, Zeroable};

use crate::pod::map_value;

/// Bins: from a microsecond on, four an octave, to an hour.
pub const BINS: usize = 128;

/// Bits of the first bin's end, which is 2^this nanoseconds.
const FIRST_BITS: u32 = 10;

/// Jobs of one half.
pub const HALF: u64 = 256;

/// After so many jobs what follows from them is worked out anew; more often among the first ones.
/// Divides [`HALF`].
const EVERY: u64 = 32;

/// What every job takes as long as nothing is known, in nanoseconds. Any number would do: costs are only
/// compared with each other, and all are multiples of it then.
const NOTHING_KNOWN: u64 = 1 << 20;

/// What one group has learned.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Learned {
    /// Jobs by bin: two halves, in turns the older and the newer one.
    pub counts: [[u32; BINS]; 2],
    /// What those took together, in nanoseconds.
    pub sums: [[u64; BINS]; 2],
    /// The mean of the jobs of a bin and of all longer ones, in nanoseconds; 0 where there is none.
    pub means: [u64; BINS],
    /// All jobs there ever were.
    pub jobs: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: [u64; 7],
}
map_value!(Learned, 4160);

/// The bin of a duration in nanoseconds.
#[inline(always)]
pub const fn bin(duration: u64) -> usize {
    if duration < 1 << FIRST_BITS {
        return 0;
    }
    let octave = duration.ilog2();
    let quarter = (duration >> (octave - 2) & 3) as u32;
    let bin = (4 * (octave - FIRST_BITS) + quarter + 1) as usize;
    if bin < BINS { bin } else { BINS - 1 }
}

impl Learned {
    /// Nothing yet.
    pub const NOTHING: Self = Self {
        counts: [[0; BINS]; 2],
        sums: [[0; BINS]; 2],
        means: [0; BINS],
        jobs: 0,
        reserved: [0; 7],
    };

    /// The mean of a job, in nanoseconds.
    #[inline(always)]
    pub fn mean(&self) -> u64 {
        match self.means[0] {
            0 => NOTHING_KNOWN,
            mean => mean,
        }
    }

    /// The rest of a job of this age, in nanoseconds; never 0.
    ///
    /// One that is older than all that have ended is taken for one that runs for as long again.
    #[inline(always)]
    pub fn rest(&self, age: u64) -> u64 {
        if self.means[0] == 0 {
            return NOTHING_KNOWN;
        }
        let rest = match self.means[bin(age)] {
            0 => age,
            mean => mean.saturating_sub(age),
        };
        rest.max(1)
    }

    /// Learns from a job that has ended.
    #[inline(always)]
    pub fn learn(&mut self, duration: u64) {
        let half = (self.jobs / HALF % 2) as usize;
        if self.jobs.is_multiple_of(HALF) {
            self.counts[half] = [0; BINS];
            self.sums[half] = [0; BINS];
        }
        let bin = bin(duration);
        self.counts[half][bin] += 1;
        self.sums[half][bin] = self.sums[half][bin].saturating_add(duration);
        self.jobs += 1;
        if self.jobs.is_multiple_of(EVERY) || (self.jobs < EVERY && self.jobs.is_power_of_two()) {
            self.work_out();
        }
    }

    #[inline(always)]
    fn work_out(&mut self) {
        let mut count = 0;
        let mut sum = 0_u64;
        for bin in (0..BINS).rev() {
            count += u64::from(self.counts[0][bin]) + u64::from(self.counts[1][bin]);
            sum = sum.saturating_add(self.sums[0][bin].saturating_add(self.sums[1][bin]));
            self.means[bin] = sum.checked_div(count).map_or(0, |mean| mean.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::iter::repeat_n;
    use std::vec::Vec;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MS: u64 = 1_000_000;

    fn learned(durations: impl IntoIterator<Item = u64>) -> Learned {
        let mut learned = Learned::NOTHING;
        durations
            .into_iter()
            .for_each(|duration| learned.learn(duration));
        learned
    }

    #[test]
    fn bins_are_quarters_of_octaves_in_order() {
        assert_eq!((bin(0), bin(1023), bin(1024), bin(1280)), (0, 0, 1, 2));
        assert_eq!((bin(2047), bin(2048)), (4, 5));
        assert_eq!(bin(u64::MAX), BINS - 1);
        let ends: Vec<_> = (0..1 << 14).map(bin).collect();
        assert!(ends.is_sorted());
    }

    #[test]
    fn nothing_is_known_at_first_and_all_jobs_are_alike() {
        let nothing = learned([]);
        assert_eq!(nothing.rest(0), nothing.mean());
        assert_eq!(nothing.rest(1000 * MS), nothing.mean());
    }

    #[test]
    fn of_equal_jobs_the_rest_is_exact() {
        let equal = learned([100 * MS; 50]);
        assert_eq!(equal.mean(), 100 * MS);
        for age in [0, 1, 37, 99] {
            assert_eq!(equal.rest(age * MS), (100 - age) * MS);
        }
        assert_eq!(equal.rest(100 * MS), 1);
    }

    #[test]
    fn of_two_kinds_what_is_old_runs_on() {
        let mixed = learned((0..200).map(|job| if job % 20 == 0 { 200 * MS } else { 4 * MS }));
        assert_eq!(mixed.rest(0), mixed.mean());
        assert!(mixed.rest(3 * MS) < 12 * MS);
        assert_eq!(mixed.rest(10 * MS), 190 * MS);
        assert_eq!(mixed.rest(150 * MS), 50 * MS);
    }

    #[test]
    fn what_is_older_than_all_is_as_good_as_stuck() {
        let short = learned([10 * MS; 64]);
        assert_eq!(short.rest(5000 * MS), 5000 * MS);
    }

    #[test]
    fn another_mix_is_learned_within_two_halves() {
        let changed = learned(repeat_n(MS, 5000).chain(repeat_n(1000 * MS, 2 * HALF as usize)));
        assert_eq!(changed.mean(), 1000 * MS);
        assert_eq!(changed.rest(600 * MS), 400 * MS);
    }

    #[test]
    fn a_stuck_job_teaches_nothing_that_lasts() {
        let stuck = [10 * MS; 100].into_iter().chain([5000 * MS]);
        let after = learned(stuck.chain([10 * MS; 2 * HALF as usize]));
        assert_eq!(after.mean(), 10 * MS);
    }

    proptest! {
        /// Beside the definition, over all jobs that are remembered.
        #[test]
        fn the_rest_is_the_mean_of_the_longer_ones_less_the_age(
            jobs in vec(1_u64..1 << 40, 32..HALF as usize), age in 0_u64..1 << 40,
        ) {
            let jobs = &jobs[..jobs.len() / 32 * 32];
            let longer: Vec<u64> = jobs.iter().copied().filter(|job| bin(*job) >= bin(age)).collect();
            let expected = match longer.len() as u64 {
                0 => age,
                count => (longer.iter().sum::<u64>() / count).max(1).saturating_sub(age),
            };
            prop_assert_eq!(learned(jobs.iter().copied()).rest(age), expected.max(1));
        }

        #[test]
        fn no_duration_is_too_long(jobs in vec(any::<u64>(), 0..1000), age: u64) {
            let learned = learned(jobs);
            prop_assert!(learned.rest(age) > 0 && learned.mean() > 0);
        }
    }
}
