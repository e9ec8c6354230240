//! A mark by which a client knows whose connection it has, also where it never gets an answer:
//! every worker's listener announces a maximum segment size of its own in its SYN-ACKs.
//!
//! Neither steer nor the kernel's hash looks at it, so that it tells the same with both.

use std::{io, os::fd::AsFd};

use anyhow::ensure;
use socket2::{SockRef, Socket};

/// What the mark 0 would be. Small sizes are refused by some kernels.
const BASE: u32 = 1000;

/// The largest mark: the kernel limits a connection's segments to half of the peer's window.
pub const LARGEST: u32 = 20_000;

/// The TCP timestamps that every segment carries, which the client's kernel has subtracted.
const TIMESTAMPS: u32 = 12;

/// Marks a socket that is to listen.
///
/// # Errors
/// When the mark is too large or the kernel refuses.
pub fn set(socket: &Socket, mark: u32) -> anyhow::Result<()> {
    ensure!(mark <= LARGEST, "no mark is left: {mark} > {LARGEST}");
    Ok(socket.set_tcp_mss(BASE + mark)?)
}

/// The mark of the listener that a connection is, or was, established with. None where it never was,
/// or the listener has no mark.
///
/// # Errors
/// When the kernel doesn't tell.
pub fn read(stream: &impl AsFd) -> io::Result<Option<u32>> {
    let size = SockRef::from(stream).tcp_mss()?;
    let mark = (size + TIMESTAMPS).checked_sub(BASE);
    Ok(mark.filter(|mark| *mark <= LARGEST))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
    };

    use socket2::{Domain, Type};
    use steer_user::sys::listening::{ListenOptions, bind};

    use super::*;

    #[test]
    fn the_client_reads_what_the_listener_was_marked_with() {
        for mark in [1, 77, LARGEST] {
            let options = ListenOptions::new("127.0.0.1:0".parse().expect("an address"));
            let socket = bind(&options).expect("a socket");
            set(&socket, mark).expect("the mark");
            socket.listen(8).expect("a listener");
            let address = socket.local_addr().expect("its address");
            let address = address.as_socket().expect("an IP address");
            // Nobody ever accepts it.
            let client = TcpStream::connect(address).expect("a connection");
            assert_eq!(read(&client).expect("the mark"), Some(mark));
            // Resets what waits.
            drop(socket);
            (&client).write_all(b"x").expect_err("a reset");
            assert_eq!(read(&client).expect("the mark"), Some(mark));
        }
    }

    #[test]
    fn without_a_mark_there_is_none() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(socket.local_addr().expect("its address"));
        assert_eq!(read(&client.expect("a connection")).expect("none"), None);
        let never = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        assert_eq!(read(&never).expect("none"), None);
    }
}
