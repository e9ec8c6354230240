//! The kernel's answers about sockets: two bytes of a port, then one datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use steer_user::sys::sockdiag::{Listener, read_connections, read_listeners};

const AF_INET: u8 = 2;
const TCP_LISTEN: u8 = 10;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;

pub(crate) fn check(input: &[u8]) {
    let Some((port, datagram)) = input.split_first_chunk() else {
        return;
    };
    let port = u16::from_ne_bytes(*port);
    let mut found = Vec::new();
    if let Ok(progress) = read_listeners(datagram, port, &mut found) {
        let (listeners, done) = naive(datagram, port);
        assert_eq!(found, listeners);
        assert_eq!(progress.done, done);
    }
    assert!(found.len() * (HEADER + MESSAGE) <= datagram.len());
    assert!(found.iter().all(|listener| listener.local.port() == port));

    let mut connections = Vec::new();
    let _progress = read_connections(datagram, port, &mut connections);
    assert!(connections.len() * (HEADER + MESSAGE) <= datagram.len());
    let cookies: Vec<_> = connections.iter().map(|one| one.cookie).collect();
    let found: Vec<_> = found.iter().map(|one| one.cookie).collect();
    // Every listener is a socket on the port.
    let mut rest = cookies.iter();
    assert!(found.iter().all(|cookie| rest.any(|one| one == cookie)));
}

/// The same by offsets alone, for an answer that is whole; and whether it says that it ends.
fn naive(mut rest: &[u8], port: u16) -> (Vec<Listener>, bool) {
    let mut found = Vec::new();
    while rest.len() >= HEADER {
        let length = number(rest, 0, 4) as usize;
        let kind = number(rest, 4, 2) as u16;
        if kind == NLMSG_DONE {
            return (found, true);
        }
        if kind == SOCK_DIAG_BY_FAMILY {
            let body = &rest[HEADER..length];
            let is_ours = body[1] == TCP_LISTEN && body[4..6] == port.to_be_bytes();
            if is_ours {
                found.push(listener(body, port));
            }
        }
        rest = rest.get(length.div_ceil(4) * 4..).unwrap_or_default();
    }
    (found, false)
}

fn listener(body: &[u8], port: u16) -> Listener {
    let source: [u8; 16] = std::array::from_fn(|index| body[8 + index]);
    let address = if body[0] == AF_INET {
        let [a, b, c, d, ..] = source;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(source))
    };
    let mut v6only = false;
    let mut mptcp = false;
    for (kind, value) in attributes(&body[MESSAGE..]) {
        if kind == INET_DIAG_SKV6ONLY {
            v6only = value[0] != 0 && address.is_ipv6();
        }
        if kind == INET_DIAG_ULP_INFO {
            let name = attributes(value)
                .into_iter()
                .find(|(kind, _)| *kind == INET_ULP_INFO_NAME);
            mptcp = name.is_some_and(|(_, name)| {
                let end = name.iter().position(|byte| *byte == 0);
                &name[..end.unwrap_or(name.len())] == b"mptcp"
            });
        }
    }
    Listener {
        device: number(body, 40, 4) as u32,
        cookie: number(body, 44, 8),
        accept_queue: number(body, 56, 4) as u32,
        backlog: number(body, 60, 4) as u32,
        uid: number(body, 64, 4) as u32,
        inode: number(body, 68, 4),
        local: SocketAddr::new(address, port),
        v6only,
        mptcp,
    }
}

fn attributes(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while rest.len() >= 4 {
        let length = number(rest, 0, 2) as usize;
        let kind = number(rest, 2, 2) as u16 & 0x3fff;
        let Some(value) = rest.get(4..length) else {
            break;
        };
        found.push((kind, value));
        rest = rest.get(length.div_ceil(4) * 4..).unwrap_or_default();
    }
    found
}

/// A number of that many bytes in this machine's order.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut word = [0; 8];
    word[..length].copy_from_slice(&bytes[at..at + length]);
    u64::from_le_bytes(word)
}
