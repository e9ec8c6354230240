//! What the loader tells a group's `select` program.

use bytemuck::{Pod, Zeroable};

use crate::{limits::MAX_SLOTS, pod::map_value};

/// The kernel's own criteria of one SO_REUSEPORT group.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct GroupKey {
    /// Cookie of the network namespace (its inode is re-used).
    pub netns_cookie: u64,
    /// Local address, an IPv4 one in the first four bytes.
    pub address: [u8; 16],
    /// Local port in host order.
    pub port: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// 1 for an IPv6 socket that takes no IPv4 connections.
    pub v6only: u32,
    /// Index of the bound device, 0 for none.
    pub device: u32,
    /// Owner of the sockets.
    pub uid: u32,
    /// `IPPROTO_TCP`.
    pub protocol: u32,
}
map_value!(GroupKey, 48);

/// Configuration of a group, one element, written by the loader as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct GroupConfig {
    /// Which group this is. Not read in the kernel.
    pub key: GroupKey,
    /// Value of [`crate::registry::AttachmentState::joins`] up to which every member of the group
    /// is known; [`GroupConfig::PARTIAL`] while steer can't have them all.
    pub joins_seen: u64,
    /// Selections of workers whose slots others have by now. Not read in the kernel.
    pub retired_selected: u64,
    /// Connections of such workers. Not read in the kernel.
    pub retired_connections: u64,
    /// Slots that are selected: live, not draining, not on standby.
    pub ready: SlotSet,
    /// Slots that are selected where no ready one may be.
    pub standby: SlotSet,
    /// Every live slot: selected where neither of the others may be.
    pub live: SlotSet,
    /// Nanoseconds without progress after which a worker with a waiting connection is ejected; 0
    /// for never.
    pub eject_after: u64,
    /// Index of the group in `GROUPS`.
    pub group: u32,
    /// One of [`crate::policy::Policy`].
    pub policy: u32,
    /// All ones below a power of two that no slot in use reaches.
    pub slot_mask: u32,
    /// First turn of the half of `TURNS` that is in force.
    pub turns_start: u32,
    /// Number of turns in force; 0 where no worker is live.
    pub turns_len: u32,
    /// Members that steer doesn't have. Not read in the kernel.
    pub unsteered: u32,
    /// Id of the program attached to the group, or about to be. Not read in the kernel.
    pub program_id: u32,
    /// Leading bits of an IPv4 client address that `sticky` goes by.
    pub sticky_v4: u32,
    /// Leading bits of an IPv6 client address that `sticky` goes by.
    pub sticky_v6: u32,
    /// 1 where the attached program migrates. Not read in the kernel.
    pub migrates: u32,
    /// Connections and handshakes that migrated to workers whose slots others have by now. Not read
    /// in the kernel.
    pub retired_migrated: u32,
    /// Id of the program that [`GroupConfig::program_id`] takes the place of, until it has; 0 for
    /// none. Not read in the kernel.
    pub former_program: u32,
    /// 1 where it is known of every live worker where its event loop waits. Else none is asked:
    /// one of which nothing is known would be taken for idle beside others that are known to be busy.
    pub loops_known: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
}
map_value!(GroupConfig, 232);

impl GroupConfig {
    /// [`GroupConfig::joins_seen`] of a group some of whose members steer can't take.
    pub const PARTIAL: u64 = u64::MAX;

    /// Whether this group's program has this id.
    pub const fn is_program(&self, id: u32) -> bool {
        id != 0 && (id == self.program_id || id == self.former_program)
    }
}

/// Value of the map `KNOWN` for a listener that is deliberately given nothing, because certainly
/// nobody serves it.
pub const EXCLUDED: u32 = u32::MAX;

/// A set of slots, one bit each.
pub type SlotSet = [u64; MAX_SLOTS as usize / 64];

/// Whether a slot is in a set.
#[inline(always)]
pub const fn contains(set: &SlotSet, slot: u32) -> bool {
    set[slot as usize / 64 % set.len()] >> (slot % 64) & 1 != 0
}

/// Adds a slot to a set.
pub const fn insert(set: &mut SlotSet, slot: u32) {
    set[slot as usize / 64 % set.len()] |= 1 << (slot % 64);
}
