//! What the kernel programs tell the loader.

use bytemuck::{Pod, Zeroable};

use crate::pod::map_value;

/// A listener appeared or disappeared on a steered port, or gets connections that steer didn't choose
/// it for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Kernel address of the listener.
    pub sock: u64,
    /// Its socket cookie.
    pub cookie: u64,
    /// Kernel time in nanoseconds since boot, `CLOCK_MONOTONIC`.
    pub time: u64,
    /// One of [`EventKind`].
    pub kind: u32,
    /// Process in whose context it happened, in the initial pid namespace.
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
    /// Connections were born on a worker's listener that was not selected: another program may be in
    /// the place of steer's. The socket is the last one of these.
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
    /// Its socket cookie; 0 where the kernel has not made one yet.
    pub cookie: u64,
    /// Kernel address of its `sock_reuseport`: equal for members of one group, 0 without
    /// SO_REUSEPORT.
    pub reuse: u64,
    /// Id of the eBPF program attached to the group; 0 for none and for a classic BPF filter.
    pub program_id: u32,
    /// 1 where a program or filter of any kind is attached.
    pub has_program: u32,
    /// Listeners in the group.
    pub group_size: u32,
    /// Epoll instances that wait on the listener, as many as were counted.
    pub loops: u32,
    /// Threads that are blocked on it, likewise.
    pub threads: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
    /// Kernel address of the listener's own wait queue; 0 where this kernel doesn't tell.
    pub head: u64,
    /// Kernel address of the first entry of that queue, 0 where it is empty.
    pub entry: u64,
    /// Kernel address of the wait queue of the epoll instance whose entry is the first one; 0 where
    /// it is another's.
    pub event_loop: u64,
}
map_value!(Member, 72);

/// How far the iterator `members` goes. After the listeners it would be led through the kernel's whole table of
/// connections, which is the host's and not the network namespace's. A read ends early only at a record that the
/// kernel then drops: so the last one is handed over here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Listing {
    /// How many records there are to be, as the loader was told; 0 to go to the end.
    pub wanted: u32,
    /// How many there are so far.
    pub found: u32,
    /// The last one, as soon as there are as many as wanted.
    pub last: Member,
}
map_value!(Listing, 80);

/// One record of the iterator `holders`: a descriptor of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct OpenFile {
    /// The process, by its number in the pid namespace of whoever reads.
    pub pid: u32,
    /// The descriptor.
    pub fd: u32,
    /// One of [`FileKind`].
    pub kind: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
    /// The inode of a socket; 0 of others.
    pub inode: u64,
}
map_value!(OpenFile, 24);

/// [`OpenFile::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileKind {
    /// A socket with the port: a listener or a connection.
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
