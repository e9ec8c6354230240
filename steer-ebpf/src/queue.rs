//! The wait queue of a listener: a thread that is blocked in accept(), poll() or select() is in it, or
//! the entry of an epoll instance, which stays there; whoever is in epoll_wait() is in the wait queue of
//! that instance.

use crate::kernel::{self, offset};

/// Its address.
#[inline(always)]
pub(crate) fn head(sock: u64) -> Option<u64> {
    let wait: u64 = kernel::read(sock, offset!(sk_wq))?;
    Some(wait + u64::from(offset!(socket_wq_head)))
}

/// What follows the head or an entry; the head again after the last one.
#[inline(always)]
pub(crate) fn next(entry: u64) -> Option<u64> {
    kernel::read(entry, 0)
}

/// Whether an entry is a thread's. An epoll instance's is nobody's.
#[inline(always)]
pub(crate) fn is_thread(entry: u64) -> Option<bool> {
    let entry = entry.wrapping_sub(u64::from(offset!(wait_entry)));
    Some(kernel::read::<u64>(entry, offset!(wait_private))? != 0)
}

/// Where whoever uses an entry's epoll instance waits; 0 for a thread's entry.
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
