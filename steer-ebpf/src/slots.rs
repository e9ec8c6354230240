//! The workers of the group and what is counted of each.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use steer_common::{
    counters::{Counters, active},
    limits::MAX_SLOTS,
    slot::{Slot, SlotState},
    view::Worker,
};

#[btf_map]
static SLOTS: Array<Slot, { MAX_SLOTS as usize }> = Array::new();

#[btf_map]
static COUNTERS: Array<Counters, { MAX_SLOTS as usize }> = Array::new();

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
        handle: slot.sock,
    })
}
