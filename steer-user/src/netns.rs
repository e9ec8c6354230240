//! The network namespace that steer works in: the calling thread's own.

use std::io;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sockopt;

/// The cookie of the calling thread's network namespace, which no other namespace has or had since
/// boot.
///
/// Minimum kernel version: 5.14.
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel.
pub fn cookie() -> io::Result<u64> {
    // Only a socket tells the cookie. One of the local family needs no network at all.
    let flags = SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    sockopt::netns_cookie(&probe)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    #[test]
    fn it_is_the_namespace_of_the_sockets_made_here() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        assert_eq!(
            cookie().expect("a cookie"),
            sockopt::netns_cookie(&listener).expect("a cookie")
        );
    }

    #[test]
    #[ignore = "privileged"]
    fn another_namespace_has_another_cookie() {
        let here = cookie().expect("a cookie");
        let there = thread::spawn(|| {
            // SAFETY: a new network namespace changes nothing that the other threads share with
            // this one: memory, descriptors and the file system view stay.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
            cookie().expect("a cookie")
        });
        assert_ne!(here, there.join().expect("the thread"));
    }
}
