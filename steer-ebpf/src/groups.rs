//! The counters of every group on the host and what it has learned, for the tracker, which serves them all.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps},
    macros::btf_map,
};
use steer_common::{
    counters::Counters,
    learn::Learned,
    limits::{MAX_GROUPS, MAX_SLOTS},
    slot::Tag,
};

#[btf_map]
static GROUPS: ArrayOfMaps<Array<Counters, { MAX_SLOTS as usize }>, { MAX_GROUPS as usize }> =
    ArrayOfMaps::new();

#[btf_map]
static LEARNING: ArrayOfMaps<Array<Learned, 1>, { MAX_GROUPS as usize }> = ArrayOfMaps::new();

/// What a group has learned; none where the group is gone.
#[inline(always)]
pub(crate) fn learned(group: u32) -> Option<*mut Learned> {
    LEARNING.get_value_ptr_mut(group, &0)
}

/// The counters that a tag names; none where the group is gone or the slot has another worker.
#[inline(always)]
pub(crate) fn counters(tag: &Tag) -> Option<*mut Counters> {
    let counters = GROUPS.get_value_ptr_mut(tag.group, &tag.slot)?;
    // SAFETY: a pointer into a map, valid as long as the program runs; the loader writes this
    // field only while no socket has a tag of the slot.
    let generation = unsafe { (*counters).generation };
    (generation == tag.generation).then_some(counters)
}
