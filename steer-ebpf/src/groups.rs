//! The counters of every group on the host, for the tracker, which serves them all.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps},
    macros::btf_map,
};
use steer_common::{
    counters::Counters,
    limits::{MAX_GROUPS, MAX_SLOTS},
    slot::Tag,
};

#[btf_map]
static GROUPS: ArrayOfMaps<Array<Counters, { MAX_SLOTS as usize }>, { MAX_GROUPS as usize }> =
    ArrayOfMaps::new();

/// The counters that a tag names; none where the group is gone or the slot has another worker.
#[inline(always)]
pub(crate) fn counters(tag: &Tag) -> Option<*mut Counters> {
    let counters = GROUPS.get_value_ptr_mut(tag.group, &tag.slot)?;
    // SAFETY: a pointer into a map, valid as long as the program runs; the loader writes this
    // field only while no socket has a tag of the slot.
    let generation = unsafe { (*counters).generation };
    (generation == tag.generation).then_some(counters)
}
