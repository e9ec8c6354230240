//! Atomic operations on words in maps. `core::sync::atomic` has none of them on this target.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_or, atomic_xadd};

/// Adds to a counter in a map. The former value isn't returned.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, value: u64) {
    // SAFETY: callers pass a pointer to an aligned u64 inside a map value, which lives as long as
    // the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Adds to a counter in a map and returns its former value. Needs Linux 5.12.
///
/// The addition is sequentially consistent. LLVM 22 compiles a relaxed addition whose result is
/// used to a plain addition, and goes on with the operand in place of the former value.
#[inline(always)]
pub(crate) fn fetch_add(counter: *mut u64, value: u64) -> u64 {
    // SAFETY: callers pass a pointer to an aligned u64 inside a map value, which lives as long as
    // the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, value) }
}

/// Sets bits of a word in a map and returns its former value. Needs Linux 5.12. It is sequentially
/// consistent for the reason that [`fetch_add`] gives.
#[inline(always)]
pub(crate) fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    // SAFETY: callers pass a pointer to an aligned u64 inside a map value, which lives as long as
    // the program runs.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::SeqCst }>(word, bits) }
}

/// Clears all but these bits of a word in a map.
#[inline(always)]
pub(crate) fn and(word: *mut u64, bits: u64) {
    // SAFETY: callers pass a pointer to an aligned u64 inside a map value, which lives as long as
    // the program runs.
    unsafe { atomic_and::<u64, u64, { AtomicOrdering::Relaxed }>(word, bits) };
}
