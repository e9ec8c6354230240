//! What a group has learned of how long its workers' jobs take. It is read when a worker is
//! selected, and written when a job has ended.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use steer_common::learn::{self, Learned, WORDS, Words};

use crate::{atomic, groups};

#[btf_map]
static LEARNED: Array<Learned, 1> = Array::new();

/// The words of a value of `LEARNED` or `LEARNING`.
struct Memory(*mut u64);

impl Memory {
    /// The address of a word. None if the index is beyond the last word.
    #[inline(always)]
    fn place(&self, index: usize) -> Option<*mut u64> {
        let mut index = index;
        // LLVM would leave out the comparison if it can prove the outcome, by a proof that the
        // verifier doesn't follow. LLVM doesn't look into assembly.
        // SAFETY: the assembly is one instruction that adds 0 to the register of `index`.
        unsafe { core::arch::asm!("{0} += 0", inout(reg) index) };
        (index < WORDS).then(|| self.0.wrapping_add(index))
    }
}

impl Words for Memory {
    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        // SAFETY: the word is aligned, and within a map value that is valid as long as the program
        // runs. Others write it meanwhile, hence volatile.
        self.place(index)
            .map_or(0, |word| unsafe { word.read_volatile() })
    }

    #[inline(always)]
    fn set(&self, index: usize, word: u64) {
        if let Some(place) = self.place(index) {
            // SAFETY: the word is aligned, and within a map value that is valid as long as the
            // program runs. Of two processors that write at once, either may win.
            unsafe { place.write_volatile(word) };
        }
    }

    #[inline(always)]
    fn add(&self, index: usize, more: u64) -> u64 {
        self.place(index)
            .map_or(0, |word| atomic::fetch_add(word, more))
    }
}

/// The mean duration of the jobs of this program's group, in nanoseconds.
#[inline(always)]
pub(crate) fn mean() -> u64 {
    LEARNED
        .get_ptr_mut(0)
        .map_or(1, |learned| learn::mean(&Memory(learned.cast())))
}

/// How long a job of this age in nanoseconds will still take, in nanoseconds.
#[inline(always)]
pub(crate) fn rest(age: u64) -> u64 {
    LEARNED
        .get_ptr_mut(0)
        .map_or(1, |learned| learn::rest(&Memory(learned.cast()), age))
}

/// Learns from a job of this group that has ended and took this many nanoseconds. The verifier
/// looks at this function once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn learn(group: u32, duration: u64) -> u32 {
    if let Some(learned) = groups::learned(group) {
        learn::learn(&Memory(learned.cast()), duration);
    }
    0
}
