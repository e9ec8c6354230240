//! The map of slots to listeners, from which the kernel takes the selected socket.

use aya_ebpf::{btf_maps::ReusePortSockArray, macros::btf_map, programs::SkReuseportContext};
use steer_common::limits::MAX_SLOTS;

#[btf_map]
static SOCKETS: ReusePortSockArray<{ MAX_SLOTS as usize }> = ReusePortSockArray::new();

/// Selects the listener of a slot. False if the slot is empty, or if its listener isn't a member
/// of this group any more. Then the packet still has no listener.
#[inline(always)]
pub(crate) fn select(ctx: &SkReuseportContext, slot: u32) -> bool {
    SOCKETS.select_reuseport(ctx, slot).is_ok()
}
