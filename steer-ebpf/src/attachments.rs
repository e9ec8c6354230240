//! What the tracker and the `select` programs of an attachment tell each other.

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use steer_common::{
    limits::MAX_ATTACHMENTS,
    registry::{AttachmentState, PortKey},
};

use crate::atomic;

#[btf_map]
static PORTS: HashMap<PortKey, u32, { MAX_ATTACHMENTS as usize }> = HashMap::new();

#[btf_map]
static ATTACHMENTS: Array<AttachmentState, { MAX_ATTACHMENTS as usize }> = Array::new();

/// The attachment that a `select` program belongs to, set by the loader before it is loaded.
#[unsafe(no_mangle)]
static ATTACHMENT: Global<u32> = Global::new(0);

/// The index of the attachment that this `select` program belongs to.
#[inline(always)]
pub(crate) fn own() -> u32 {
    ATTACHMENT.load()
}

/// Listeners that appeared on the port of this program's attachment.
#[inline(always)]
pub(crate) fn joins() -> Option<u64> {
    ATTACHMENTS.get(own()).map(|state| state.joins)
}

/// The attachment that steers a port.
#[inline(always)]
pub(crate) fn of_port(key: &PortKey) -> Option<u32> {
    // SAFETY: the value is an integer that the loader never changes while the key is there.
    unsafe { PORTS.get(key) }.copied()
}

/// Notes that a listener appeared on the attachment's port.
#[inline(always)]
pub(crate) fn count_join(attachment: u32) {
    if let Some(state) = ATTACHMENTS.get_ptr_mut(attachment) {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*state).joins }, 1);
    }
}

/// Notes that an event of the attachment was lost.
#[inline(always)]
pub(crate) fn count_lost_event(attachment: u32) {
    if let Some(state) = ATTACHMENTS.get_ptr_mut(attachment) {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*state).lost_events }, 1);
    }
}
