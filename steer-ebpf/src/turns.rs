//! The order of turns, laid out by the loader in one half of the map while the other is in force.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use steer_common::limits::MAX_TURNS;

#[btf_map]
static TURNS: Array<u32, { 2 * MAX_TURNS as usize }> = Array::new();

/// The slot whose turn it is.
#[inline(always)]
pub(crate) fn turn(index: u32) -> Option<u32> {
    TURNS.get(index).copied()
}
