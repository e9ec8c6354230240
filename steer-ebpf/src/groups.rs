//! The counters of every group on the host, and what every group has learned. The tracker serves
//! all groups.

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

/// What a group has learned. None if the group is gone.
#[inline(always)]
pub(crate) fn learned(group: u32) -> Option<*mut Learned> {
    LEARNING.get_value_ptr_mut(group, &0)
}

/// The counters of the slot that a tag names. None if the group is gone, or if the slot has
/// another worker by now.
#[inline(always)]
pub(crate) fn counters(tag: &Tag) -> Option<*mut Counters> {
    let counters = GROUPS.get_value_ptr_mut(tag.group, &tag.slot)?;
    // SAFETY: `counters` points to a map value, which is valid as long as the program runs. The
    // loader writes this field only while no socket has a tag of the slot.
    let generation = unsafe { (*counters).generation };
    (generation == tag.generation).then_some(counters)
}
