//! Events, by which the kernel programs tell the loader something.

use aya_ebpf::{
    btf_maps::{ArrayOfMaps, RingBuf},
    macros::btf_map,
};
use steer_common::{
    event::Event,
    limits::{EVENT_BYTES, MAX_ATTACHMENTS},
};

use crate::attachments;

#[btf_map]
static RINGS: ArrayOfMaps<RingBuf<Event, { EVENT_BYTES as usize }>, { MAX_ATTACHMENTS as usize }> =
    ArrayOfMaps::new();

/// Sends an event to the loader of an attachment. If the event can't be sent, notes that one was
/// lost.
#[inline(always)]
pub(crate) fn send(attachment: u32, event: &Event) {
    let sent = RINGS
        .get(attachment)
        .is_some_and(|ring| ring.output(event, 0).is_ok());
    if !sent {
        attachments::count_lost_event(attachment);
    }
}
