//! What the kernel programs tell the loader: events, and the records of the iterators.

use bytemuck::{Pod, Zeroable};

use crate::pod::map_value;

/// Something happened to a listener on a steered port: it appeared, disappeared, got connections
/// that steer didn't choose it for, or was handed over to another event loop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Kernel address of the socket that the event is about: the listener, except for
    /// [`EventKind::Unselected`].
    pub sock: u64,
    /// Socket cookie of that socket.
    pub cookie: u64,
    /// When it happened, in nanoseconds of CLOCK_MONOTONIC; 0 if that isn't told.
    pub time: u64,
    /// One of [`EventKind`].
    pub kind: u32,
    /// The process in whose context it happened, in the initial pid namespace; 0 if that isn't
    /// told.
    pub pid: u32,
}
map_value!(Event, 32);

/// [`Event::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// listen() made the socket a listener.
    Listen = 1,
    /// The listener was closed or shut down.
    Close = 2,
    /// Connections were born on the listener of a worker that was not selected for them: another
    /// program may be in the place of steer's. The event's socket is the last of these
    /// connections.
    Unselected = 3,
    /// A worker's listener is watched by another event loop than the one that its slot names.
    HandedOver = 4,
}

impl EventKind {
    /// The kind that a ring buffer record holds.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Listen),
            2 => Some(Self::Close),
            3 => Some(Self::Unselected),
            4 => Some(Self::HandedOver),
            _ => None,
        }
    }
}

/// One record of the iterator `members`: a listener on the port and its group, as the kernel has
/// them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Member {
    /// Kernel address of the socket; 0 in the record that marks the end of the listeners.
    pub sock: u64,
    /// Socket cookie of the listener; 0 if the kernel has not made one yet.
    pub cookie: u64,
    /// Kernel address of the listener's `sock_reuseport`, which is the same for all members of one
    /// group; 0 without SO_REUSEPORT.
    pub reuse: u64,
    /// Id of the eBPF program that is attached to the group; 0 if there is none, and for a classic
    /// BPF filter.
    pub program_id: u32,
    /// 1 if a program or filter of any kind is attached to the group.
    pub has_program: u32,
    /// How many listeners the group has.
    pub group_size: u32,
    /// How many epoll instances wait on the listener, of the few waiters that are counted.
    pub loops: u32,
    /// How many threads are blocked on the listener, of the few waiters that are counted.
    pub threads: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
    /// Kernel address of the listener's own wait queue; 0 if this kernel doesn't tell.
    pub head: u64,
    /// Kernel address of the first entry of that wait queue; 0 if the queue is empty.
    pub entry: u64,
    /// Kernel address of the wait queue of the epoll instance that the first entry is of; 0 if the
    /// first entry is a thread's.
    pub event_loop: u64,
}
map_value!(Member, 72);

/// How far the iterator `members` goes.
///
/// After the listeners the kernel would lead the iterator through its whole table of connections,
/// which is the host's and not the network namespace's. A program can end a read early only at a
/// record that the kernel then drops. So the last record is handed over here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Listing {
    /// How many records there are to be, as sock_diag told the loader; 0 to go to the end.
    pub wanted: u32,
    /// How many records there are so far.
    pub found: u32,
    /// The last record, as soon as there are as many as wanted.
    pub last: Member,
}
map_value!(Listing, 80);

/// One record of the iterator `holders`: a descriptor of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct OpenFile {
    /// The process, by its number in the pid namespace of whoever reads the record.
    pub pid: u32,
    /// The descriptor.
    pub fd: u32,
    /// One of [`FileKind`].
    pub kind: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
    /// The inode of a socket; 0 if the file is no socket.
    pub inode: u64,
}
map_value!(OpenFile, 24);

/// [`OpenFile::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    /// A socket of the port: a listener or a connection.
    Socket = 1,
    /// An epoll instance, whatever it watches.
    Epoll = 2,
    /// An `io_uring`.
    IoUring = 3,
}

impl FileKind {
    /// The kind that a record holds.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Socket),
            2 => Some(Self::Epoll),
            3 => Some(Self::IoUring),
            _ => None,
        }
    }
}
