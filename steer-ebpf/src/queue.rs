//! The wait queue of a listener.
//!
//! A thread that is blocked in accept(), poll() or select() is in this queue. An epoll instance
//! that watches the listener has an entry in the queue, which stays there. Whoever is in
//! epoll_wait() is in the wait queue of that instance.

use crate::kernel::{self, offset};

/// The kernel address of the head of a listener's wait queue.
#[inline(always)]
pub(crate) fn head(sock: u64) -> Option<u64> {
    let wait: u64 = kernel::read(sock, offset!(sk_wq))?;
    Some(wait + u64::from(offset!(socket_wq_head)))
}

/// The entry that follows the head or an entry. The head follows the last entry.
#[inline(always)]
pub(crate) fn next(entry: u64) -> Option<u64> {
    kernel::read(entry, 0)
}

/// Whether an entry is a thread's. An epoll instance's entry names no thread.
#[inline(always)]
pub(crate) fn is_thread(entry: u64) -> Option<bool> {
    let entry = entry.wrapping_sub(u64::from(offset!(wait_entry)));
    Some(kernel::read::<u64>(entry, offset!(wait_private))? != 0)
}

/// The kernel address of the wait queue of an entry's epoll instance: whoever uses the instance
/// waits there. 0 if the entry is a thread's.
#[inline(always)]
pub(crate) fn event_loop(entry: u64) -> Option<u64> {
    if is_thread(entry)? {
        return Some(0);
    }
    let wait = entry.wrapping_sub(u64::from(offset!(wait_entry)));
    let wait = wait.wrapping_sub(u64::from(offset!(eppoll_wait)));
    let item: u64 = kernel::read(wait, offset!(eppoll_base))?;
    let instance: u64 = kernel::read(item, offset!(epitem_ep))?;
    Some(instance + u64::from(offset!(eventpoll_head)))
}
