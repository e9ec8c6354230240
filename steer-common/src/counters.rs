//! What the kernel programs count.

use bytemuck::{Pod, Zeroable};

use crate::{config::SlotSet, pod::map_value};

/// Counts of one slot, written by the kernel programs. What is counted only changes by atomic
/// additions. What every selection reads is in the first 64 bytes, one line of a processor's
/// cache.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counters {
    /// Child sockets that were born on the worker's listener, or migrated to it.
    pub connections: u64,
    /// Of [`Counters::connections`], those that the worker has closed, and those that migrated
    /// away.
    pub closed: u64,
    /// When the worker's event loop was last seen waiting, in nanoseconds of CLOCK_MONOTONIC.
    pub waited_at: u64,
    /// When the worker was last seen to make progress in accepting, in nanoseconds of
    /// CLOCK_MONOTONIC.
    pub progress_at: u64,
    /// How many connections the worker had accepted when that was last looked at. Only ever
    /// compared for equality.
    pub accepted: u64,
    /// Generation of the slot if the tracker saw the slot's listener closing.
    pub gone: u32,
    /// Generation of the slot that these counts belong to. The loader writes it.
    pub generation: u32,
    /// When the worker's newest connection was born, in nanoseconds of CLOCK_MONOTONIC.
    pub born_at: u64,
    /// Connections that migrated away from the worker while they waited to be accepted.
    pub moved: u64,
    /// SYNs for which the slot was selected.
    pub selected: u64,
    /// ACKs without a request socket (SYN cookies, stray segments) for which the slot was
    /// selected.
    pub cookie_acks: u64,
    /// Connections and handshakes that the kernel migrated to the worker.
    pub migrated: u64,
    /// Selections of the slot that the socket map refused.
    pub refused: u64,
    /// Selections of the slot that found the worker's accept queue full.
    pub full: u64,
    /// How often the worker was ejected.
    pub ejected: u64,
    /// The smallest value of connections − selections seen so far (signed). If the difference
    /// rises above it, another program chose the worker.
    pub unselected: i64,
    /// How many selections of the worker had come to nothing (no connection, and no handshake any
    /// more) when it was last looked at (signed). Connections from before steer count against this
    /// number.
    pub void: i64,
    /// Kernel address of the connection that the worker's event loop read from last; 0 if the
    /// worker has closed the connection, 1 if the connection was reset before it was answered. The
    /// address is only ever compared, and read through `bpf_probe_read_kernel`.
    pub job: u64,
    /// When the worker's event loop began with what it does, in nanoseconds of CLOCK_MONOTONIC; 0
    /// if that isn't known. That is the beginning of the job of that connection or, once the
    /// connection is closed, the time when it was answered.
    pub began_at: u64,
    /// Of [`Counters::connections`], those that the worker has read from, and those that ended
    /// before the worker had read from them.
    pub read: u64,
    /// Of the connections that aren't in [`Counters::read`], those that are known to bring no
    /// request soon: they are kept in reserve.
    pub silent: u64,
    /// When [`Counters::silent`] was last worked out, in nanoseconds of CLOCK_MONOTONIC.
    pub silent_at: u64,
    /// [`Counters::connections`] at the moment [`Counters::silent_at`].
    pub silent_of: u64,
    /// How long the worker's last job took if its connection is closed and the group hasn't
    /// learned from it yet, in nanoseconds; 0 for none.
    pub ended: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u64,
}
map_value!(Counters, 192);

impl Counters {
    /// How many connections the worker has not closed.
    pub const fn active(&self) -> u64 {
        active(self.connections, self.closed)
    }
}

/// How many connections are about to bring their first request: those born, less those read from,
/// less the silent ones.
#[inline(always)]
pub const fn fresh(connections: u64, read: u64, silent: u64) -> u64 {
    connections.saturating_sub(read).saturating_sub(silent)
}

/// How many of the connections that nobody has read from are silent, if the worker's event loop
/// waits.
///
/// The worker has been able to read from all connections that are older than
/// [`crate::view::YOUNG`] nanoseconds. At most `younger` connections are younger than that.
#[inline(always)]
pub const fn silent(connections: u64, read: u64, younger: u64) -> u64 {
    connections.saturating_sub(read).saturating_sub(younger)
}

/// How many connections are open, of those born and those closed.
///
/// The two numbers are read one after the other. A close in between can make the difference
/// negative for a moment. Then the answer is zero.
#[inline(always)]
pub const fn active(connections: u64, closed: u64) -> u64 {
    connections.saturating_sub(closed)
}

/// Why a packet that needed a listener was left to the kernel's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hashed {
    /// No slot is live.
    NoWorker = 0,
    /// The hash would choose a member of the group that steer doesn't have. That member keeps its
    /// share.
    UnknownWorker = 1,
    /// The socket map refused every slot that was tried.
    Refused = 2,
    /// Members joined that steer doesn't have, and their share can't be told, because the kernel's
    /// structures could not be read.
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

    /// The reason with this number.
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
    /// How many tickets were given out for SYNs, for ACKs without a request socket, and for
    /// migrations, by [`crate::view::Arrival`]. Nothing else moves a cursor.
    pub cursors: [u64; 3],
    /// SYNs that were left to the kernel's hash, by [`Hashed`].
    pub hashed: [u64; Hashed::COUNT],
    /// The slots that are ejected: not selected until they accept again.
    pub ejected: SlotSet,
    /// For this many more packets the program looks at what the hash would choose, though all
    /// members are said to be known: it has met a member that isn't known.
    pub doubts: u64,
    /// How often a selection was found to have come to nothing.
    pub void: u64,
    /// Segments that select for which a listener was looked up before TCP did so.
    pub early: u64,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u64,
}
map_value!(GroupCounters, 128);
