//! The wait queue of a listener's socket, in which the kernel has whoever waits for connections.

use steer_common::event::Member;

use crate::survey::proc::holders::Holder;

/// A listener's wait queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many epoll instances are in it. An instance stays in it for as long as it watches the
    /// listener.
    pub loops: u32,
    /// How many threads are in it: those that are blocked in accept, poll or select at this
    /// moment.
    pub threads: u32,
    /// Kernel address of the queue. 0 if this kernel doesn't tell it.
    pub head: u64,
    /// Kernel address of the first entry. 0 if the queue is empty.
    pub entry: u64,
    /// Kernel address of the wait queue of the first entry's epoll instance. 0 if the first entry
    /// is no epoll instance's.
    pub event_loop: u64,
}

impl Queue {
    /// The queue that the iterator has found.
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

    /// Whether these processes, as far as steer can tell, are all that wait in the queue.
    pub fn is_explained_by(&self, holders: &[Holder]) -> bool {
        if !self.is_known() || self.is_empty() {
            return true;
        }
        let loops = holders.iter().filter(|holder| holder.by_epoll).count();
        holders.iter().any(|holder| holder.polls) && loops >= self.loops as usize
    }

    /// A value that stays the same for as long as the same epoll instances watch the listener.
    pub fn watch(&self) -> (u32, u64) {
        let entry = if self.loops > 0 { self.entry } else { 0 };
        (self.loops, entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoll_instance_that_no_known_process_has_is_somebody_elses() {
        let holder = |polls, by_epoll| Holder {
            pid: 7,
            comm: "worker".into(),
            fd: 3,
            polls,
            by_epoll,
            opaque: false,
            io_uring: false,
        };
        let queue = |loops, threads| Queue {
            loops,
            threads,
            head: 1,
            ..Queue::default()
        };
        let (idle, by_epoll, blocked) = (
            holder(false, false),
            holder(true, true),
            holder(true, false),
        );
        assert!(queue(0, 0).is_explained_by(std::slice::from_ref(&idle)));
        assert!(queue(1, 0).is_explained_by(&[idle.clone(), by_epoll.clone()]));
        assert!(queue(0, 2).is_explained_by(std::slice::from_ref(&blocked)));
        assert!(!queue(1, 0).is_explained_by(&[idle]));
        assert!(!queue(2, 0).is_explained_by(std::slice::from_ref(&by_epoll)));
        assert!(queue(2, 0).is_explained_by(&[by_epoll.clone(), by_epoll]));
        assert!(!queue(0, 1).is_explained_by(&[]));
        assert!(Queue::default().is_explained_by(&[]), "nothing is known");
    }
}
