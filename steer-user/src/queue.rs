//! Who waits on a listener, as the kernel has it: the wait queue of its socket.

use steer_common::event::Member;

/// A listener's wait queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Epoll instances in it. Each stays there for as long as it watches the listener.
    pub loops: u32,
    /// Threads in it: those that are blocked in accept, poll or select at this moment.
    pub threads: u32,
    /// Its kernel address; 0 where this kernel doesn't tell.
    pub head: u64,
    /// Kernel address of its first entry, 0 where it is empty.
    pub entry: u64,
    /// Kernel address of the wait queue of the first entry's epoll instance, if it is one.
    pub event_loop: u64,
}

impl Queue {
    /// What the iterator has found.
    pub fn of(member: &Member) -> Self {
        Self {
            loops: member.loops,
            threads: member.threads,
            head: member.head,
            entry: member.entry,
            event_loop: member.event_loop,
        }
    }

    /// Whether the kernel tells who waits.
    pub fn is_known(&self) -> bool {
        self.head != 0
    }

    /// Whether certainly nobody waits.
    pub fn is_empty(&self) -> bool {
        self.is_known() && self.loops == 0 && self.threads == 0
    }

    /// What stays the same for as long as the same epoll instances watch it.
    pub fn watch(&self) -> (u32, u64) {
        let entry = if self.loops > 0 { self.entry } else { 0 };
        (self.loops, entry)
    }
}
