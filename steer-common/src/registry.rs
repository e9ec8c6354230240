//! What all attachments of a host share. One tracker serves them all.

use bytemuck::{Pod, Zeroable};

use crate::pod::map_value;

/// The protocol number of TCP, as the kernel and IANA have it.
pub const IPPROTO_TCP: u32 = 6;

/// Key of the map `PORTS`; its value is the index of the attachment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PortKey {
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Local port in host order.
    pub port: u32,
    /// [`IPPROTO_TCP`].
    pub protocol: u32,
}
map_value!(PortKey, 16);

/// What the tracker tells the `select` programs and the loader of one attachment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct AttachmentState {
    /// How many listeners have appeared on the port. If this is ahead of
    /// [`crate::config::GroupConfig::joins_seen`], there may be members that steer doesn't have
    /// yet.
    pub joins: u64,
    /// How many events found the ring buffer full. The loader then looks at everything again.
    pub lost_events: u64,
}
map_value!(AttachmentState, 16);
