//! What the kernel programs count.

use bytemuck::{Pod, Zeroable};

use crate::{config::SlotSet, pod::map_value};

/// Counts of one slot, written by the kernel programs, the counts with atomic additions only:
/// first what every selection reads, then what is only written.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counters {
    /// Child sockets born on its listener, or migrated to it.
    pub connections: u64,
    /// Of [`Counters::connections`], those that the worker has closed, or that migrated away.
    pub closed: u64,
    /// When its event loop was last seen waiting, in nanoseconds of CLOCK_MONOTONIC.
    pub waited_at: u64,
    /// When it was last seen to make progress in accepting, likewise.
    pub progress_at: u64,
    /// Connections that it had accepted then; only compared for being equal.
    pub accepted: u64,
    /// Generation of the slot whose listener the tracker saw closing.
    pub gone: u32,
    /// Generation of the slot that these counts belong to, written by the loader.
    pub generation: u32,
    /// When its newest connection was born, likewise.
    pub born_at: u64,
    /// Connections that migrated away from it while they waited to be accepted.
    pub moved: u64,
    /// SYNs for which this slot was selected.
    pub selected: u64,
    /// ACKs without a request socket (SYN cookies, stray segments) for which it was selected.
    pub cookie_acks: u64,
    /// Connections and handshakes that the kernel migrated to it.
    pub migrated: u64,
    /// Selections of this slot that the socket map refused.
    pub refused: u64,
    /// Selections of this slot that found its accept queue full.
    pub full: u64,
    /// Times that it was ejected.
    pub ejected: u64,
    /// Connections less selections, the least that this was, as a signed number. What exceeds it was
    /// born without steer's having selected.
    pub unselected: i64,
    /// Of its selections, those that have come to nothing (no connection, and no handshake any more), when it was last
    /// looked at, as a signed number: connections from before steer count against it.
    pub void: i64,
    /// Kernel address of the connection that its event loop read from last, only ever compared, and read through
    /// `bpf_probe_read_kernel`; 0 if the worker has closed it, 1 if it was reset before it was answered.
    pub job: u64,
    /// When its event loop began with what it does, as far as that is known: with the job of that connection, or
    /// when that was answered, once it is closed. In nanoseconds of CLOCK_MONOTONIC.
    pub began_at: u64,
    /// Of [`Counters::connections`], those that it has read from, and those that ended before it had.
    pub read: u64,
    /// Of the others, those that are known to bring no request soon: connections that are kept in reserve.
    pub silent: u64,
    /// When that was last looked at, in nanoseconds of CLOCK_MONOTONIC.
    pub silent_at: u64,
    /// [`Counters::connections`] at that moment.
    pub silent_of: u64,
    /// How long its last job took whose connection is closed, in nanoseconds, until the group learns from it; 0 for
    /// nothing.
    pub ended: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u64,
}
map_value!(Counters, 192);

impl Counters {
    /// Connections that the worker has not closed.
    pub const fn active(&self) -> u64 {
        active(self.connections, self.closed)
    }
}

/// Connections that are about to bring their first request: of those born and those read from, less the
/// silent ones.
#[inline(always)]
pub const fn fresh(connections: u64, read: u64, silent: u64) -> u64 {
    connections.saturating_sub(read).saturating_sub(silent)
}

/// Of the connections that nobody has read from, those that are silent: the worker waits, and has been able to
/// read from all that are older than [`crate::view::YOUNG`] nanoseconds. So many of them are younger at most.
#[inline(always)]
pub const fn silent(connections: u64, read: u64, younger: u64) -> u64 {
    connections.saturating_sub(read).saturating_sub(younger)
}

/// Connections open, of those born and those closed.
///
/// The two are read one after the other, so a close in between can make the difference negative
/// for a moment: that is zero.
#[inline(always)]
pub const fn active(connections: u64, closed: u64) -> u64 {
    connections.saturating_sub(closed)
}

/// Why a packet that wanted a listener was left to the kernel's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hashed {
    /// No slot is live.
    NoWorker = 0,
    /// The hash would choose a member of the group that steer doesn't have: it keeps its share.
    UnknownWorker = 1,
    /// The socket map refused every slot that was tried.
    Refused = 2,
    /// Members joined that steer doesn't have, and the kernel's structures could not be read to
    /// tell their share.
    Unreadable = 3,
    /// The packet has no complete TCP header.
    Malformed = 4,
}

impl Hashed {
    /// How many reasons there are.
    pub const COUNT: usize = 5;

    /// Every reason, in the order of [`GroupCounters::hashed`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::NoWorker,
        Self::UnknownWorker,
        Self::Refused,
        Self::Unreadable,
        Self::Malformed,
    ];

    /// The reason of that number.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::NoWorker,
            1 => Self::UnknownWorker,
            2 => Self::Refused,
            3 => Self::Unreadable,
            _ => Self::Malformed,
        }
    }

    /// The reason as `steer status --json` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoWorker => "no_worker",
            Self::UnknownWorker => "unknown_worker",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
        }
    }
}

/// Counts of one group, written by the kernel programs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GroupCounters {
    /// Tickets given out for SYNs, for ACKs without a request socket and for migrations, by
    /// [`crate::view::Arrival`]. Nothing else moves a cursor.
    pub cursors: [u64; 3],
    /// SYNs left to the kernel's hash, by [`Hashed`].
    pub hashed: [u64; Hashed::COUNT],
    /// Slots that are ejected: not selected until they accept again.
    pub ejected: SlotSet,
    /// For so many packets more the program looks at what the hash would choose, though all members are
    /// said to be known: it has met one that isn't.
    pub doubts: u64,
    /// How often a selection was found to have come to nothing.
    pub void: u64,
    /// Selecting segments for which a listener was looked up before TCP did.
    pub early: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u64,
}
map_value!(GroupCounters, 128);
