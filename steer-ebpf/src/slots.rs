//! The workers of the group, and what is counted of each.

use core::mem::offset_of;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use steer_common::{
    counters::{Counters, active, fresh as fresh_of, silent},
    limits::MAX_SLOTS,
    slot::{Slot, SlotState},
    view::{Handle, Worker, YOUNG},
};

#[btf_map]
static SLOTS: Array<Slot, { MAX_SLOTS as usize }> = Array::new();

#[btf_map]
static COUNTERS: Array<Counters, { MAX_SLOTS as usize }> = Array::new();

/// What the loader says of a slot.
#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<&'static Slot> {
    SLOTS.get(index)
}

/// What is counted of a slot.
#[inline(always)]
pub(crate) fn counters(index: u32) -> Option<*mut Counters> {
    COUNTERS.get_ptr_mut(index)
}

/// The worker of a slot. None if the slot has no worker, or if the tracker saw its listener
/// closing.
#[inline(always)]
pub(crate) fn live(index: u32) -> Option<Worker> {
    let slot = SLOTS.get(index)?;
    let counters = COUNTERS.get_ptr(index)?;
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    let gone = unsafe { &raw const (*counters).gone };
    // SAFETY: as for `gone`, the address of another field of the same value.
    let connections = unsafe { &raw const (*counters).connections };
    // SAFETY: as for `gone`, the address of another field of the same value.
    let closed = unsafe { &raw const (*counters).closed };
    // SAFETY: the field is aligned, and within a map value that is valid as long as the program
    // runs. Others write it meanwhile, hence volatile.
    let gone = unsafe { gone.read_volatile() };
    if slot.state != SlotState::Live as u32 || gone == slot.generation {
        return None;
    }
    // SAFETY: as for `gone`, the field is aligned, valid, and written by others meanwhile.
    let connections = unsafe { connections.read_volatile() };
    // SAFETY: as for `gone`, the field is aligned, valid, and written by others meanwhile.
    let closed = unsafe { closed.read_volatile() };
    Some(Worker {
        inverse_weight: slot.inverse_weight,
        active: active(connections, closed) as u32,
        handle: Handle {
            slot: index,
            sock: slot.sock,
            waiters: slot.waiters,
        },
    })
}

/// When the worker's event loop was last seen waiting, in nanoseconds of CLOCK_MONOTONIC; 0 if it
/// never was.
#[inline(always)]
pub(crate) fn waited_at(index: u32) -> u64 {
    number(index, offset_of!(Counters, waited_at))
}

/// When the worker's newest connection was born, in nanoseconds of CLOCK_MONOTONIC; 0 if the
/// worker never had one.
#[inline(always)]
pub(crate) fn born_at(index: u32) -> u64 {
    number(index, offset_of!(Counters, born_at))
}

/// How many connections of a worker are about to bring their first request.
#[inline(always)]
pub(crate) fn fresh(index: u32) -> u32 {
    let value = |offset| number(index, offset);
    let fresh = fresh_of(
        value(offset_of!(Counters, connections)),
        value(offset_of!(Counters, read)),
        value(offset_of!(Counters, silent)),
    );
    fresh.min(u64::from(u32::MAX)) as u32
}

/// Forgets the silent connections of a worker that has no open connection any more.
#[inline(always)]
pub(crate) fn forget_silent(index: u32) {
    if number(index, offset_of!(Counters, silent)) != 0
        && let Some(counters) = COUNTERS.get_ptr_mut(index)
    {
        // SAFETY: `counters` points to a map value, which is valid as long as the program runs.
        unsafe { (*counters).silent = 0 };
    }
}

/// Notes how many connections of a worker are silent. The worker's event loop waits at `now`.
#[inline(always)]
pub(crate) fn note_silent(index: u32, now: u64) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else {
        return;
    };
    let value = |offset| number(index, offset);
    let connections = value(offset_of!(Counters, connections));
    let read = value(offset_of!(Counters, read));
    if connections == read && value(offset_of!(Counters, silent)) == 0 {
        return;
    }
    let younger = if now.saturating_sub(born_at(index)) >= YOUNG {
        0
    } else if now.saturating_sub(value(offset_of!(Counters, silent_at))) >= YOUNG {
        connections.saturating_sub(value(offset_of!(Counters, silent_of)))
    } else {
        return;
    };
    // SAFETY: `counters` points to a map value, which is valid as long as the program runs.
    unsafe { (*counters).silent = silent(connections, read, younger) };
    // SAFETY: as for `silent`, another field of the same value.
    unsafe { (*counters).silent_at = now };
    // SAFETY: as for `silent`, another field of the same value.
    unsafe { (*counters).silent_of = connections };
}

/// [`Counters::job`]: kernel address of the connection that the worker read from last. 0 if that
/// connection is closed.
#[inline(always)]
pub(crate) fn job(index: u32) -> u64 {
    number(index, offset_of!(Counters, job))
}

/// [`Counters::began_at`]: when the worker's event loop began with what it does, in nanoseconds of
/// CLOCK_MONOTONIC; 0 if that isn't known.
#[inline(always)]
pub(crate) fn began_at(index: u32) -> u64 {
    number(index, offset_of!(Counters, began_at))
}

/// The number at an offset of [`Counters`].
#[inline(always)]
fn number(index: u32, offset: usize) -> u64 {
    COUNTERS.get_ptr(index).map_or(0, |counters| {
        let field = counters.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: the field is aligned, and within a map value that is valid as long as the
        // program runs. Others write it meanwhile, hence volatile.
        unsafe { field.read_volatile() }
    })
}

/// Writes down that the worker's event loop was seen waiting.
#[inline(always)]
pub(crate) fn set_waited_at(index: u32, now: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
        let field = unsafe { &raw mut (*counters).waited_at };
        // SAFETY: `waited_at` is an aligned field of a map value, which is valid as long as the
        // program runs. Of two processors that write at once, either may win.
        unsafe { field.write_volatile(now) };
    }
}
