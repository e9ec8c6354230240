//! Connections on which a request waits. An epoll instance keeps a list of what is ready and not
//! fetched yet.
//!
//! A level-triggered event loop leaves in the list, at the end, what it has fetched. An entry
//! stays until the loop asks again and the kernel finds nothing to read. So the list also has what
//! the loop has fetched and not yet read from. New entries come behind these. So the list is
//! searched from its end, up to the first connection that has been read.

use crate::kernel::{self, offset};

/// How many entries are looked at. The list has entries of other files than connections, too.
const MOST: u32 = 12;

/// How many connections of a port have data that nobody has read, in the epoll instance whose wait
/// queue is at `waiters`: `most` or less. The verifier looks at this function once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn ready(waiters: u64, port: u32, most: u32) -> u32 {
    let instance = waiters.wrapping_sub(u64::from(offset!(eventpoll_head)));
    let head = instance + u64::from(offset!(eventpoll_ready));
    let mut count = 0;
    let mut after = head;
    let Some([_, mut entry]) = kernel::read::<[u64; 2]>(instance, offset!(eventpoll_ready)) else {
        return 0;
    };
    for _ in 0..MOST {
        if entry == head || count >= most {
            break;
        }
        // If threads wait on the listener itself, `waiters` is no epoll instance's. There is no
        // such list then, and entries don't lead back.
        let Some([next, before]) = kernel::read::<[u64; 2]>(entry, 0) else {
            break;
        };
        if next != after {
            break;
        }
        match look(entry, port) {
            Entry::Waits => count += 1,
            Entry::Read => break,
            Entry::Other => {}
        }
        after = entry;
        entry = before;
    }
    count
}

/// What an entry of the list is of.
enum Entry {
    /// A connection on which a request waits that is not the connection's first.
    Waits,
    /// A connection that has been read.
    Read,
    /// Something else, or a connection that the worker has not read from yet. Such a connection is
    /// counted elsewhere, as fresh.
    Other,
}

#[inline(always)]
fn look(entry: u64, port: u32) -> Entry {
    let Some(sock) = connection(entry, port) else {
        return Entry::Other;
    };
    let number = |offset| kernel::read::<u32>(sock, offset).unwrap_or(0);
    let received = number(offset!(tcp_received));
    let unread = received.wrapping_sub(number(offset!(tcp_copied)));
    if received == 0 {
        // The socket is the listener: its `rcv_nxt` is 0.
        Entry::Other
    } else if unread == 0 {
        Entry::Read
    } else if unread == number(offset!(tcp_all_received)) {
        Entry::Other
    } else {
        Entry::Waits
    }
}

/// The kernel address of the connection that an entry is of. None if the entry is of something
/// else than a socket of this port.
#[inline(always)]
fn connection(entry: u64, port: u32) -> Option<u64> {
    let item = entry.wrapping_sub(u64::from(offset!(epitem_link)));
    let file: u64 = kernel::read(item, offset!(epitem_file))?;
    let socket: u64 = kernel::read(file, offset!(file_private))?;
    let sock: u64 = kernel::read(socket, offset!(socket_sk))?;
    let number: u16 = kernel::read(sock, offset!(sk_num))?;
    (u32::from(number) == port).then_some(sock)
}
