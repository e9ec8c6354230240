//! The order of turns. The loader lays it out in one half of the map while the other half is in
//! force.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use steer_common::limits::MAX_TURNS;

#[btf_map]
static TURNS: Array<u32, { 2 * MAX_TURNS as usize }> = Array::new();

/// The slot at an index of the map. None beyond its end.
#[inline(always)]
pub(crate) fn turn(index: u32) -> Option<u32> {
    TURNS.get(index).copied()
}
