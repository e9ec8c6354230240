//! A slot: one worker of a group.

use bytemuck::{Pod, Zeroable};

use crate::pod::map_value;

/// What the loader says of a slot. Kernel programs only read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Slot {
    /// Socket cookie of the listener; 0 while the slot is free.
    pub cookie: u64,
    /// Kernel address of the listener; 0 if it isn't known. It is only ever read through
    /// `bpf_probe_read_kernel`: a stale address makes a choice worse, never wrong.
    pub sock: u64,
    /// Counts the workers that had this slot. A tag of an earlier generation doesn't count for
    /// this worker.
    pub generation: u32,
    /// One of [`SlotState`].
    pub state: u32,
    /// Share of the worker relative to the shares of the others, at least 1.
    pub weight: u32,
    /// Process that serves the listener, in the loader's pid namespace.
    pub pid: u32,
    /// Command name of that process as the kernel has it, zero-padded. It is foreign text.
    pub comm: [u8; 16],
    /// File descriptor of the listener in that process.
    pub fd: i32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Kernel address of the wait queue of the worker's event loop; 0 if it isn't known, or if it
    /// tells nothing. It is read as [`Slot::sock`] is.
    pub waiters: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
    /// [`inverse_weight`] of the weight. It is here so that the kernel needs no division.
    pub inverse_weight: u32,
}
map_value!(Slot, 72);

/// Bits of [`Slot::flags`].
pub mod flags {
    /// The worker is not selected while there is another.
    pub const DRAINING: u32 = 1;
    /// The worker is selected only if no other worker may be.
    pub const STANDBY: u32 = 2;
    /// Nobody was seen waiting for connections on the listener yet. Not read in the kernel.
    pub const NOT_SEEN: u32 = 4;
    /// Several processes wait for connections on the listener, as in the middle of a reload. Not
    /// read in the kernel.
    pub const SHARED: u32 = 8;
}

/// What one connection adds to the load of a worker of this weight. A connection adds 2^20 to the
/// load of a worker of weight 1. A weight of 0 counts as 1.
pub const fn inverse_weight(weight: u32) -> u32 {
    const ONE: u32 = 1 << 20;
    if weight == 0 {
        ONE
    } else {
        ONE.div_ceil(weight)
    }
}

/// [`Slot::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotState {
    /// Nobody has the slot.
    Free = 0,
    /// The slot's worker may be selected.
    Live = 1,
    /// The listener is gone. Connections of the worker may still be open.
    Gone = 2,
}

impl SlotState {
    /// The state that a map holds. An unknown number is taken for [`SlotState::Gone`], which is
    /// never selected.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Free,
            1 => Self::Live,
            _ => Self::Gone,
        }
    }
}

/// Socket storage of a listener. The kernel copies it to every child socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tag {
    /// Index of the attachment in the maps `ATTACHMENTS` and `RINGS`.
    pub attachment: u32,
    /// Index of the group in the maps `GROUPS` and `LEARNING`.
    pub group: u32,
    /// Slot in the group.
    pub slot: u32,
    /// [`Slot::generation`] at the time when the listener was tagged.
    pub generation: u32,
    /// How far the counting of the socket has come.
    ///
    /// - Of a connection: nothing is counted yet ([`Tag::UNCOUNTED`]), its birth is
    ///   ([`Tag::BORN`]), its worker has read from it ([`Tag::READ`]), or its end is counted
    ///   ([`Tag::ENDED`]).
    /// - Of a listener: it listens ([`Tag::UNCOUNTED`]), it was shut down ([`Tag::ENDED`]), or
    ///   close() is at work on it ([`Tag::CLOSING`]).
    pub stage: u32,
}
map_value!(Tag, 20);

impl Tag {
    /// [`Tag::stage`] of a connection that isn't counted yet, and of a listener that listens.
    pub const UNCOUNTED: u32 = 0;
    /// [`Tag::stage`] of a connection whose birth is counted.
    pub const BORN: u32 = 1;
    /// [`Tag::stage`] of a connection that its worker has read from.
    pub const READ: u32 = 2;
    /// [`Tag::stage`] of a connection whose end is counted, and of a listener that was shut
    /// down.
    pub const ENDED: u32 = 3;
    /// [`Tag::stage`] of a listener that closes. The loader is told when the kernel destroys it.
    pub const CLOSING: u32 = 4;
}
