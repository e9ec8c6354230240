//! Atomic additions. `core::sync::atomic` has none on this target.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_or, atomic_xadd};

/// Adds to a counter in a map whose former value nobody needs.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, value: u64) {
    // SAFETY: callers pass a pointer to an aligned u64 inside a map value, which lives as long as
    // the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Adds to a counter in a map and returns its former value.
///
/// Sequentially consistent, because LLVM 22 compiles a relaxed addition whose result is used to a
/// plain one and goes on with the operand in place of the former value. Needs Linux 5.12.
#[inline(always)]
pub(crate) fn fetch_add(counter: *mut u64, value: u64) -> u64 {
    // SAFETY: as for `add`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, value) }
}

/// Sets bits of a word in a map and returns its former value. As [`fetch_add`].
#[inline(always)]
pub(crate) fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    // SAFETY: as for `add`.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::SeqCst }>(word, bits) }
}

/// Keeps only these bits of a word in a map.
#[inline(always)]
pub(crate) fn and(word: *mut u64, bits: u64) {
    // SAFETY: as for `add`.
    unsafe { atomic_and::<u64, u64, { AtomicOrdering::Relaxed }>(word, bits) };
}
