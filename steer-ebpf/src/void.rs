//! Selections that came to nothing: a handshake that was reset, as by a health check, or timed out.
//!
//! Each selection ends in a connection or in nothing, and until then in a handshake in flight. So a worker's
//! selections, less its connections and its handshakes, tell how many came to nothing.

use core::mem::offset_of;

use steer_common::{
    counters::{Counters, GroupCounters},
    policy::mix::mix,
};

use crate::{
    atomic,
    kernel::{self, offset},
    slots,
};

/// Looks at a worker that is about to be selected, and writes down if a selection of it has come to nothing.
/// Memory of the kernel is read only where one has, or may have still.
#[inline(always)]
pub(crate) fn look(group: *mut GroupCounters, slot: u32) {
    let (Some(entry), Some(counters)) = (slots::slot(slot), slots::counters(slot)) else {
        return;
    };
    let read = |offset: usize| {
        let field = counters.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: a field of a map value, valid as long as the program runs.
        unsafe { field.read_volatile() }
    };
    let open_or_void = read(offset_of!(Counters, selected))
        .wrapping_add(read(offset_of!(Counters, cookie_acks)))
        .wrapping_add(read(offset_of!(Counters, migrated)))
        .wrapping_sub(read(offset_of!(Counters, connections)))
        .cast_signed();
    let before = read(offset_of!(Counters, void)).cast_signed();
    if open_or_void == before {
        return;
    }
    let Some(handshakes) = kernel::read::<u32>(entry.sock, offset!(request_queue_len)) else {
        return;
    };
    let void = open_or_void - i64::from(handshakes);
    // SAFETY: a pointer into a map, valid as long as the program runs.
    unsafe { (*counters).void = void };
    if void > before {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*group).void }, 1);
    }
}

/// [`steer_common::view::View::shift`].
#[inline(always)]
pub(crate) fn shift(group: *const GroupCounters) -> u64 {
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    let void = unsafe { &raw const (*group).void };
    // SAFETY: within a map value, valid as long as the program runs; written by others meanwhile, hence
    // volatile.
    match unsafe { void.read_volatile() } {
        0 => 0,
        void => mix(void as u32, SEED).into(),
    }
}

/// Any number.
const SEED: u32 = 0x5eed;
