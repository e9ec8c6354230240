//! How long the jobs of a group's workers take, learned from the jobs that have ended.
//!
//! A job is what keeps an event loop from everything else: a request, mostly. Of a job that a
//! worker has in hand, it matters how long the job will still take, given its age:
//!
//! - If all jobs take the same time, the oldest is done first.
//! - If durations are exponential, the age says nothing.
//! - If few jobs take most of the time, a job that has run for long runs on.
//!
//! So what is left of a job is the mean of the jobs that took longer than its age, less the age.
//! Jobs are counted in bins of a quarter of an octave, with the sum of their durations. For equal
//! jobs, what is left is exact, however wide the bin is.
//!
//! There are two halves of [`HALF`] jobs each. The older half is dropped when the newer half is
//! full. So a group knows its last [`HALF`] to twice as many jobs, and another mix of jobs is
//! learned after as many.
//!
//! Several processors learn at once without a lock: a job more or less doesn't matter.

use core::cell::Cell;

use bytemuck::{Pod, Zeroable};

use crate::{pod::map_value, quantile};

/// How many bins there are. From a microsecond on there are four bins to an octave. The last bin
/// is of jobs that take 55 minutes or more.
pub const BINS: usize = 128;

/// The first bin ends at 2^this nanoseconds.
const FIRST_BITS: u32 = 10;

/// The longest job in nanoseconds, more than an hour. A job that takes longer counts as this long.
pub const LONGEST: u64 = 1 << 42;

/// How many jobs one half counts.
pub const HALF: u64 = 256;

/// After this many jobs the means are worked out anew, and more often among the first jobs.
/// Divides [`HALF`].
const EVERY: u64 = 64;

/// What every job takes as long as nothing is known, in nanoseconds. Any number would do: costs
/// are only compared with each other, and then all of them are multiples of this number.
const NOTHING_KNOWN: u64 = 1 << 20;

/// The jobs of one bin. Both fields are in one line of a processor's cache.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Bin {
    /// How many jobs there are.
    pub count: u64,
    /// What the jobs took together, in nanoseconds.
    pub sum: u64,
}

/// What one group has learned.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Learned {
    /// Jobs by bin, in two halves. The halves take turns at being the older and the newer one.
    pub bins: [[Bin; BINS]; 2],
    /// For each bin, the mean of the jobs of that bin and of all longer jobs, in nanoseconds; 0 if
    /// there are no such jobs.
    pub means: [u64; BINS],
    /// How many jobs there ever were.
    pub jobs: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: [u64; 7],
}
map_value!(Learned, 5184);

/// How many words [`Learned`] has.
pub const WORDS: usize = size_of::<Learned>() / size_of::<u64>();

/// Where the fields of [`Learned`] begin, in words.
const MEANS: usize = 2 * 2 * BINS;
const JOBS: usize = MEANS + BINS;

/// The index of the count of a bin of a half. The index of the bin's sum is the next one.
#[inline(always)]
const fn count_of(half: usize, bin: usize) -> usize {
    2 * (half * BINS + bin)
}

/// The words of [`Learned`], which others change meanwhile.
///
/// Every index that is passed is less than [`WORDS`].
pub trait Words {
    /// Reads a word.
    fn get(&self, index: usize) -> u64;

    /// Overwrites a word.
    fn set(&self, index: usize, word: u64);

    /// Adds to a word, and returns the word's former value.
    fn add(&self, index: usize, more: u64) -> u64;
}

/// The words in memory that only one thread uses, for the tests and the simulator.
impl Words for [Cell<u64>; WORDS] {
    fn get(&self, index: usize) -> u64 {
        self[index].get()
    }

    fn set(&self, index: usize, word: u64) {
        self[index].set(word);
    }

    fn add(&self, index: usize, more: u64) -> u64 {
        self[index].replace(self[index].get() + more)
    }
}

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

/// The mean duration of a job, in nanoseconds; never 0.
#[inline(always)]
pub fn mean(words: &impl Words) -> u64 {
    match words.get(MEANS) {
        0 => NOTHING_KNOWN,
        mean => mean,
    }
}

/// What is left of a job of this age, in nanoseconds, as the age is; never 0.
///
/// A job that is older than all that have ended is taken for one that runs for as long again.
#[inline(always)]
pub fn rest(words: &impl Words, age: u64) -> u64 {
    if words.get(MEANS) == 0 {
        return NOTHING_KNOWN;
    }
    let rest = match words.get(MEANS + bin(age)) {
        0 => age,
        mean => mean.saturating_sub(age),
    };
    rest.clamp(1, LONGEST)
}

/// Learns from a job that has ended and took this many nanoseconds.
#[inline(always)]
pub fn learn(words: &impl Words, duration: u64) {
    let duration = duration.min(LONGEST);
    let before = words.add(JOBS, 1);
    let half = (before / HALF % 2) as usize;
    if before.is_multiple_of(HALF) {
        for bin in 0..BINS {
            words.set(count_of(half, bin), 0);
            words.set(count_of(half, bin) + 1, 0);
        }
    }
    let place = count_of(half, bin(duration));
    words.add(place, 1);
    words.add(place + 1, duration);
    let jobs = before + 1;
    if jobs.is_multiple_of(EVERY) || (jobs < EVERY && jobs.is_power_of_two()) {
        work_out(words);
    }
}

#[inline(always)]
fn work_out(words: &impl Words) {
    let mut count = 0_u64;
    let mut sum = 0_u64;
    for step in 0..BINS {
        let bin = BINS - 1 - step;
        let [older, newer] = [count_of(0, bin), count_of(1, bin)];
        count += words.get(older) + words.get(newer);
        sum += words.get(older + 1) + words.get(newer + 1);
        let mean = sum.checked_div(count).map_or(0, |mean| mean.max(1));
        words.set(MEANS + bin, mean);
    }
}

impl Learned {
    /// What a group has learned before its first job.
    pub const NOTHING: Self = Self {
        bins: [[Bin { count: 0, sum: 0 }; BINS]; 2],
        means: [0; BINS],
        jobs: 0,
        reserved: [0; 7],
    };

    /// How many jobs are remembered.
    pub fn remembered(&self) -> u64 {
        total(self.bins.as_flattened().iter().map(|bin| bin.count))
    }

    /// The mean of the jobs that are remembered, in nanoseconds. None if there are none.
    pub fn mean(&self) -> Option<u64> {
        let sum = total(self.bins.as_flattened().iter().map(|bin| bin.sum));
        sum.checked_div(self.remembered())
    }

    /// The duration that this many percent of the remembered jobs didn't exceed, in nanoseconds.
    /// It is the mean of the jobs of the duration's bin, so it is right within a fifth. None if no
    /// jobs are remembered.
    pub fn quantile(&self, percent: u64) -> Option<u64> {
        let rank = quantile::upper_rank(self.remembered(), percent)?;
        let mut before = 0_u64;
        (0..BINS).find_map(|bin| {
            let both = self.bins.iter().map(|half| half[bin]);
            let count = total(both.clone().map(|bin| bin.count));
            before = before.saturating_add(count);
            (before > rank).then(|| total(both.map(|bin| bin.sum)).checked_div(count))?
        })
    }
}

/// A sum of words of a map. The words may be anything, so the sum saturates.
fn total(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::iter::repeat_n;
    use std::vec::Vec;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MS: u64 = 1_000_000;

    struct Memory([Cell<u64>; WORDS]);

    impl Memory {
        fn rest(&self, age: u64) -> u64 {
            rest(&self.0, age)
        }

        fn mean(&self) -> u64 {
            mean(&self.0)
        }

        fn read(&self) -> Learned {
            let words: Vec<u64> = self.0.iter().map(Cell::get).collect();
            let mut learned = Learned::NOTHING;
            bytemuck::cast_slice_mut(core::slice::from_mut(&mut learned)).copy_from_slice(&words);
            learned
        }
    }

    fn learned(durations: impl IntoIterator<Item = u64>) -> Memory {
        let memory = Memory([const { Cell::new(0) }; WORDS]);
        durations
            .into_iter()
            .for_each(|duration| learn(&memory.0, duration));
        memory
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
    fn the_fields_are_where_the_words_say() {
        let memory = learned([MS]);
        let read = memory.read();
        assert_eq!(read.jobs, 1);
        assert_eq!(read.bins[0][bin(MS)], Bin { count: 1, sum: MS });
        assert_eq!(read.means[0], MS);
    }

    #[test]
    fn nothing_is_known_at_first_and_all_jobs_are_alike() {
        let nothing = learned([]);
        assert_eq!(nothing.rest(0), nothing.mean());
        assert_eq!(nothing.rest(1000 * MS), nothing.mean());
        assert_eq!(Learned::NOTHING.mean(), None);
        assert_eq!(Learned::NOTHING.quantile(50), None);
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
        let read = mixed.read();
        assert_eq!(read.quantile(50), Some(4 * MS));
        assert_eq!(read.quantile(90), Some(4 * MS));
        assert_eq!(read.quantile(99), Some(200 * MS));
        assert_eq!(read.quantile(100), Some(200 * MS));
    }

    #[test]
    fn what_is_older_than_all_is_as_good_as_stuck() {
        let short = learned([10 * MS; 64]);
        assert_eq!(short.rest(5000 * MS), 5000 * MS);
        assert_eq!(short.rest(u64::MAX), LONGEST);
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
        /// Compares [`rest`] with its definition, over all jobs that are remembered.
        #[test]
        fn the_rest_is_the_mean_of_the_longer_ones_less_the_age(
            jobs in vec(1_u64..1 << 40, EVERY as usize..HALF as usize), age in 0_u64..1 << 40,
        ) {
            let jobs = &jobs[..jobs.len() / EVERY as usize * EVERY as usize];
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
            prop_assert!((1..=LONGEST).contains(&learned.rest(age)));
            prop_assert!((1..=LONGEST).contains(&learned.mean()));
        }
    }
}
