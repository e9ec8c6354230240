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

/// The index of the attachment that a `select` program belongs to. The loader sets it before it
/// loads the program.
#[unsafe(no_mangle)]
static ATTACHMENT: Global<u32> = Global::new(0);

/// The index of the attachment that this `select` program belongs to.
#[inline(always)]
pub(crate) fn own() -> u32 {
    ATTACHMENT.load()
}

/// How many listeners have appeared on the port of this program's attachment. None if there is no
/// such attachment.
#[inline(always)]
pub(crate) fn joins() -> Option<u64> {
    ATTACHMENTS.get(own()).map(|state| state.joins)
}

/// The index of the attachment that steers a port. None if nobody steers the port.
#[inline(always)]
pub(crate) fn of_port(key: &PortKey) -> Option<u32> {
    // SAFETY: the value is an integer that the loader never changes while the key is there.
    unsafe { PORTS.get(key) }.copied()
}

/// Notes that a listener appeared on the attachment's port.
#[inline(always)]
pub(crate) fn count_join(attachment: u32) {
    if let Some(state) = ATTACHMENTS.get_ptr_mut(attachment) {
        // SAFETY: `state` points to a map value, and only the address of a field is taken.
        atomic::add(unsafe { &raw mut (*state).joins }, 1);
    }
}

/// Notes that an event of the attachment was lost.
#[inline(always)]
pub(crate) fn count_lost_event(attachment: u32) {
    if let Some(state) = ATTACHMENTS.get_ptr_mut(attachment) {
        // SAFETY: `state` points to a map value, and only the address of a field is taken.
        atomic::add(unsafe { &raw mut (*state).lost_events }, 1);
    }
}
