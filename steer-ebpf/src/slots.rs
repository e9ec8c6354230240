//! The workers of the group and what is counted of each.

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

/// The worker of a slot, where it has one whose listener isn't known to be closing.
#[inline(always)]
pub(crate) fn live(index: u32) -> Option<Worker> {
    let slot = SLOTS.get(index)?;
    let counters = COUNTERS.get_ptr(index)?;
    // SAFETY: a pointer into a map, of which fields are taken by address only.
    let gone = unsafe { &raw const (*counters).gone };
    // SAFETY: as above.
    let connections = unsafe { &raw const (*counters).connections };
    // SAFETY: as above.
    let closed = unsafe { &raw const (*counters).closed };
    // SAFETY: within a map value, valid as long as the program runs; written by others meanwhile,
    // hence volatile.
    let gone = unsafe { gone.read_volatile() };
    if slot.state != SlotState::Live as u32 || gone == slot.generation {
        return None;
    }
    // SAFETY: as above.
    let connections = unsafe { connections.read_volatile() };
    // SAFETY: as above.
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

/// When the worker's event loop was last seen waiting; 0 where it never was.
#[inline(always)]
pub(crate) fn waited_at(index: u32) -> u64 {
    number(index, offset_of!(Counters, waited_at))
}

/// When the worker's newest connection was born; 0 where it never had one.
#[inline(always)]
pub(crate) fn born_at(index: u32) -> u64 {
    number(index, offset_of!(Counters, born_at))
}

/// Connections of a worker that are about to bring their first request.
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

/// Forgets the silent connections of a worker that has none open any more.
#[inline(always)]
pub(crate) fn forget_silent(index: u32) {
    if number(index, offset_of!(Counters, silent)) != 0
        && let Some(counters) = COUNTERS.get_ptr_mut(index)
    {
        // SAFETY: a pointer into a map, valid as long as the program runs.
        unsafe { (*counters).silent = 0 };
    }
}

/// Notes, of a worker that waits, how many of its connections are silent.
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
    // SAFETY: a pointer into a map, valid as long as the program runs.
    unsafe { (*counters).silent = silent(connections, read, younger) };
    // SAFETY: as above.
    unsafe { (*counters).silent_at = now };
    // SAFETY: as above.
    unsafe { (*counters).silent_of = connections };
}

/// Kernel address of the connection that the worker read from last; 0 where that is closed.
#[inline(always)]
pub(crate) fn job(index: u32) -> u64 {
    number(index, offset_of!(Counters, job))
}

/// When the worker's event loop began with what it does, as far as that is known; 0 where it isn't.
#[inline(always)]
pub(crate) fn began_at(index: u32) -> u64 {
    number(index, offset_of!(Counters, began_at))
}

/// The number at an offset of [`Counters`].
#[inline(always)]
fn number(index: u32, offset: usize) -> u64 {
    COUNTERS.get_ptr(index).map_or(0, |counters| {
        let field = counters.wrapping_byte_add(offset).cast::<u64>();
        // SAFETY: within a map value, valid as long as the program runs; written by others
        // meanwhile, hence volatile.
        unsafe { field.read_volatile() }
    })
}

/// Writes down that the worker's event loop was seen waiting.
#[inline(always)]
pub(crate) fn set_waited_at(index: u32, now: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        let field = unsafe { &raw mut (*counters).waited_at };
        // SAFETY: within a map value, valid as long as the program runs.
        unsafe { field.write_volatile(now) };
    }
}
