//! Options of sockets: what they say, and those that steer sets.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use rustix::net::sockopt::{socket_acceptconn, socket_cookie, socket_protocol, socket_reuseport};

/// The [`protocol`] of an MPTCP socket.
pub const IPPROTO_MPTCP: u32 = libc::IPPROTO_MPTCP as u32;

/// The socket's cookie (`SO_COOKIE`): a number that no other socket has, or has had since boot,
/// in any network namespace.
///
/// Minimum kernel version: 4.6.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(socket_cookie(socket)?)
}

/// Whether the socket listens (`SO_ACCEPTCONN`).
pub fn is_listening(socket: impl AsFd) -> io::Result<bool> {
    Ok(socket_acceptconn(socket)?)
}

/// Whether the socket shares its port (`SO_REUSEPORT`).
///
/// This is the option's value now. If a worker sets it after `bind()`, its listener is in a group
/// only from the next `listen()` on.
pub fn reuseport(socket: impl AsFd) -> io::Result<bool> {
    Ok(socket_reuseport(socket)?)
}

/// The socket's protocol (`SO_PROTOCOL`): 6 for TCP, [`IPPROTO_MPTCP`] for MPTCP.
pub fn protocol(socket: impl AsFd) -> io::Result<u32> {
    Ok(socket_protocol(socket)?.map_or(0, |protocol| protocol.as_raw().get()))
}

/// The cookie of the socket's network namespace (`SO_NETNS_COOKIE`). Unlike an inode, it is never
/// used again.
///
/// Minimum kernel version: 5.14.
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call. The kernel writes the new length, and at
    // most `length` bytes into `value`, which is the size of `value`. Both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

/// Ends a listener while its worker still has it open (`shutdown(SHUT_RD)`).
pub fn stop_listening(listener: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(
        listener,
        rustix::net::Shutdown::Read,
    )?)
}

/// Attaches an SK_REUSEPORT program to the listener's group (`SO_ATTACH_REUSEPORT_EBPF`), in
/// place of any other.
pub fn attach_program(listener: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let descriptor = program.as_fd().as_raw_fd();
    let option = libc::SO_ATTACH_REUSEPORT_EBPF;
    set(listener.as_fd(), libc::SOL_SOCKET, option, descriptor)
}

/// Makes the kernel hand out a connection only when its first data have come, or after this many
/// seconds (`TCP_DEFER_ACCEPT`).
pub fn defer_accept(listener: impl AsFd, seconds: u32) -> io::Result<()> {
    let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    let option = libc::TCP_DEFER_ACCEPT;
    set(listener.as_fd(), libc::IPPROTO_TCP, option, seconds)
}

/// Sets an option that is one C int, and that no crate has.
fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the socket is borrowed for the call, and the kernel reads one C int that outlives
    // the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::{TcpListener, TcpStream},
    };

    use rustix::net::{
        AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_socket_reuseport,
    };

    use super::*;

    #[test]
    fn a_listener_and_a_connection_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let connection = TcpStream::connect(address).expect("a connection");
        assert!(is_listening(&listener).expect("an answer"));
        assert!(!is_listening(&connection).expect("an answer"));
        assert_ne!(
            cookie(&listener).expect("a cookie"),
            cookie(&connection).expect("a cookie")
        );
        assert_eq!(protocol(&listener).expect("a protocol"), 6);
    }

    #[test]
    fn sharing_the_port_is_seen() {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
        assert!(!reuseport(&socket).expect("an answer"));
        set_socket_reuseport(&socket, true).expect("the option");
        assert!(reuseport(&socket).expect("an answer"));
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        let file = File::open("/proc/self/status").expect("a file");
        let error = netns_cookie(&file).expect_err("no socket");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
        assert!(cookie(&file).is_err());
    }
}
