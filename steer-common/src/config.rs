//! What the loader tells a group's `select` program.

use bytemuck::{Pod, Zeroable};

use crate::{limits::MAX_SLOTS, pod::map_value};

/// One SO_REUSEPORT group, by the kernel's own criteria.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct GroupKey {
    /// Cookie of the network namespace. (The inode of a namespace is used again for another one.)
    pub netns_cookie: u64,
    /// Local address. An IPv4 address is in the first four bytes.
    pub address: [u8; 16],
    /// Local port in host order.
    pub port: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// 1 for an IPv6 socket that takes no IPv4 connections.
    pub v6only: u32,
    /// Index of the bound device; 0 if the sockets are bound to none.
    pub device: u32,
    /// User id of the sockets' owner.
    pub uid: u32,
    /// The protocol: [`crate::registry::IPPROTO_TCP`].
    pub protocol: u32,
}
map_value!(GroupKey, 48);

/// Configuration of a group: the one element of its map, which the loader writes as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct GroupConfig {
    /// Which group this is. Not read in the kernel.
    pub key: GroupKey,
    /// The value of [`crate::registry::AttachmentState::joins`] up to which steer knows every
    /// member of the group; [`GroupConfig::PARTIAL`] as long as steer can't have all members.
    pub joins_seen: u64,
    /// How many selections the former workers had whose slots others have by now. Not read in the
    /// kernel.
    pub retired_selected: u64,
    /// How many connections the former workers had whose slots others have by now. Not read in the
    /// kernel.
    pub retired_connections: u64,
    /// The slots that are selected: live, not draining, not on standby.
    pub ready: SlotSet,
    /// The slots on standby, which are selected if no ready slot may be.
    pub standby: SlotSet,
    /// Every live slot. They are selected if no ready slot and no slot on standby may be.
    pub live: SlotSet,
    /// A worker for which a connection waits is ejected after this many nanoseconds without
    /// progress; 0 for never.
    pub eject_after: u64,
    /// Index of the group in the maps `GROUPS` and `LEARNING`.
    pub group: u32,
    /// One of [`crate::policy::Policy`].
    pub policy: u32,
    /// One less than a power of two that is larger than any slot in use.
    pub slot_mask: u32,
    /// Index of the first turn of the half of `TURNS` that is in force.
    pub turns_start: u32,
    /// Number of turns in force; 0 if no worker is live.
    pub turns_len: u32,
    /// How many members of the group steer doesn't have. Not read in the kernel.
    pub unsteered: u32,
    /// Id of the program that is attached to the group, or is about to be. Not read in the kernel.
    pub program_id: u32,
    /// How many leading bits of an IPv4 client address `sticky` goes by.
    pub sticky_v4: u32,
    /// How many leading bits of an IPv6 client address `sticky` goes by.
    pub sticky_v6: u32,
    /// 1 if the attached program migrates. Not read in the kernel.
    pub migrates: u32,
    /// How many connections and handshakes migrated to the former workers whose slots others have
    /// by now. Not read in the kernel.
    pub retired_migrated: u32,
    /// Id of the program whose place [`GroupConfig::program_id`] takes, until that has happened; 0
    /// for none. Not read in the kernel.
    pub former_program: u32,
    /// 1 if it is known of every live worker where its event loop waits. Else no worker's event
    /// loop is asked: a worker of which nothing is known would be taken for idle beside others
    /// that are known to be busy.
    pub loops_known: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
}
map_value!(GroupConfig, 232);

impl GroupConfig {
    /// [`GroupConfig::joins_seen`] of a group if steer can't take some of its members.
    pub const PARTIAL: u64 = u64::MAX;

    /// Whether the program with this id is steer's for this group, or was until its replacement is
    /// done.
    pub const fn is_program(&self, id: u32) -> bool {
        id != 0 && (id == self.program_id || id == self.former_program)
    }
}

/// The value in the map `KNOWN` for a listener that is deliberately given nothing, because
/// certainly nobody serves it.
pub const EXCLUDED: u32 = u32::MAX;

/// A set of slots: one bit for each.
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
