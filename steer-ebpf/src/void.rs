//! Selections that came to nothing: the handshake was reset, as by a health check, or timed out.
//!
//! Each selection is a handshake in flight until it ends in a connection or in nothing. So a
//! worker's selections, less its connections and its handshakes in flight, are those that came to
//! nothing.

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

/// Looks at a worker that is about to be selected. If a selection of the worker has come to
/// nothing since the last look, writes that down.
///
/// Kernel memory is read only if the count of selections without a connection has changed: then
/// one has come to nothing, or may do so still.
#[inline(always)]
pub(crate) fn look(group: *mut GroupCounters, slot: u32) {
    let (Some(entry), Some(counters)) = (slots::slot(slot), slots::counters(slot)) else {
        return;
    };
    let read = |offset: usize| {
        let field = counters.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: the field is aligned, and within a map value that is valid as long as the
        // program runs. Others change it meanwhile, hence volatile.
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
    // SAFETY: `counters` points to a map value, which is valid as long as the program runs.
    unsafe { (*counters).void = void };
    if void > before {
        // SAFETY: `group` points to a map value, and only the address of a field is taken.
        atomic::add(unsafe { &raw mut (*group).void }, 1);
    }
}

/// [`steer_common::view::View::shift`].
#[inline(always)]
pub(crate) fn shift(group: *const GroupCounters) -> u64 {
    // SAFETY: `group` points to a map value, and only the address of a field is taken.
    let void = unsafe { &raw const (*group).void };
    // SAFETY: `void` is an aligned field of a map value, which is valid as long as the program
    // runs. Others change it meanwhile, hence volatile.
    match unsafe { void.read_volatile() } {
        0 => 0,
        void => mix(void as u32, SEED).into(),
    }
}

/// The second number that [`mix`] takes. Any number would do.
const SEED: u32 = 0x5eed;
