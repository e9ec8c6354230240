//! Lists the TCP listeners and connections, and the UDP sockets, of a network namespace. The
//! kernel answers by `sock_diag`.

use std::{io, net::SocketAddr};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, Nla as _, NlasIterator,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

/// The size of the buffer, in bytes. The kernel sends at most 32 KiB at once.
const BUFFER: usize = 1 << 16;

/// How often to ask for the list again, if the sockets change while the kernel lists them.
const TRIES: u32 = 8;

/// The bits of an attribute's type without its flags. A kernel may set the flags or not.
const NLA_TYPE_MASK: u16 = 0x3fff;

const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The socket's cookie. No other socket has it, or has had it since boot.
    pub cookie: u64,
    /// The socket's inode, as `/proc/PID/fd` shows it. 0 if no process has the socket open.
    pub inode: u64,
    /// The id of the user who made the socket. Only listeners of one user share a group.
    pub uid: u32,
    /// The local address and port. The scope of an IPv6 address is always 0: see `device`.
    pub local: SocketAddr,
    /// Whether an IPv6 listener leaves IPv4 to others. False for IPv4.
    pub v6only: bool,
    /// The index of the network device that the socket is bound to. 0 for none.
    pub device: u32,
    /// How many connections wait to be accepted.
    pub accept_queue: u32,
    /// How many connections may wait to be accepted.
    pub backlog: u32,
    /// Whether this is the TCP half of an MPTCP listener, which can't be steered. Its cookie
    /// isn't the one that its worker's descriptor tells. Its inode is.
    pub mptcp: bool,
}

/// Why steer can't tell which sockets there are.
#[derive(Debug, thiserror::Error)]
pub enum SockdiagError {
    /// A system call on the netlink socket failed.
    #[error("failed to list the TCP sockets: can't {step} the kernel's sock_diag")]
    Socket {
        /// What steer was doing with the socket.
        step: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("failed to list the TCP sockets: the kernel refused")]
    Refused(#[source] io::Error),
    /// The kernel's answer can't be understood.
    #[error("failed to list the TCP sockets: the kernel's answer is malformed")]
    Malformed(#[source] DecodeError),
    /// A part of the answer was longer than the buffer. The number is its length in bytes.
    #[error("failed to list the TCP sockets: an answer of {0} bytes was cut short")]
    Truncated(usize),
    /// The sockets changed during every try.
    #[error("failed to list the TCP sockets: the list kept changing; try again")]
    Unstable,
}

/// The TCP listeners on `port` in the calling thread's network namespace, of IPv4 and IPv6,
/// ordered by cookie.
///
/// A listener that appears or goes away during the call may or may not be among them.
///
/// Minimum kernel version: 5.1 (for `mptcp`, 5.7).
pub fn listeners(port: u16) -> Result<Vec<Listener>, SockdiagError> {
    let states = StateFlags::LISTEN;
    for _ in 0..TRIES {
        let mut found = Vec::new();
        let mut consistent = true;
        for family in [AF_INET, AF_INET6] {
            let states = states.clone();
            consistent &= dump(IPPROTO_TCP, family, port, states, listener, &mut found)?;
        }
        if consistent {
            found.sort_by_key(|listener| listener.cookie);
            found.dedup_by_key(|listener| listener.cookie);
            return Ok(found);
        }
    }
    Err(SockdiagError::Unstable)
}

/// Checks that the kernel lists TCP sockets. If the module for that isn't loaded, the kernel
/// itself tries to load it.
pub fn require() -> Result<(), SockdiagError> {
    // This asks for a single port, which is cheap however many listeners there are.
    listeners(u16::MAX).map(|_found| ())
}

/// A connection that its worker has not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The socket's cookie.
    pub cookie: u64,
    /// The socket's inode. 0 if no process has the socket open, as before accept().
    pub inode: u64,
}

/// The connections to `port` that their workers have not closed, in the calling thread's network
/// namespace. A connection that opens or closes during the call may or may not be among them.
///
/// Minimum kernel version: 5.1.
pub fn connections(port: u16) -> Result<Vec<Connection>, SockdiagError> {
    let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        // Connections come and go all the time. Whatever the kernel lists is good enough.
        let states = states.clone();
        dump(IPPROTO_TCP, family, port, states, connection, &mut found)?;
    }
    Ok(found)
}

/// Whether a UDP socket that receives from anybody is bound to `port`, in the calling thread's
/// network namespace.
///
/// Minimum kernel version: 3.3.
pub fn has_udp(port: u16) -> Result<bool, SockdiagError> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        // This is the state of a UDP socket that isn't connected.
        dump(
            IPPROTO_UDP,
            family,
            port,
            StateFlags::CLOSE,
            connection,
            &mut found,
        )?;
    }
    Ok(!found.is_empty())
}

/// Reads what the kernel tells of a socket. None if nobody asked for that socket.
type Parse<T> = fn(&InetResponse, u16) -> Result<Option<T>, DecodeError>;

/// Asks the kernel for a list, and adds the sockets to `found`. Returns false if the list changed
/// meanwhile, so that the kernel's answer is inconsistent.
fn dump<T>(
    protocol: u8,
    family: u8,
    port: u16,
    states: StateFlags,
    parse: Parse<T>,
    found: &mut Vec<T>,
) -> Result<bool, SockdiagError> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    // From here on only the kernel can send to this socket.
    socket
        .connect(&NetlinkAddr::new(0, 0))
        .map_err(failed("connect to"))?;
    socket
        .send(&request(protocol, family, port, states), 0)
        .map_err(failed("ask"))?;

    let mut buffer = vec![0; BUFFER];
    let mut consistent = true;
    loop {
        // With MSG_TRUNC this is the length of the whole message, even if the message didn't fit.
        let received = match socket.recv(&mut buffer.as_mut_slice(), libc::MSG_TRUNC) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("read from")(error)),
        };
        let datagram = buffer
            .get(..received)
            .ok_or(SockdiagError::Truncated(received))?;
        let progress = read(datagram, port, parse, found)?;
        consistent &= !progress.interrupted;
        if progress.done {
            return Ok(consistent);
        }
    }
}

/// A request for all sockets of `family` on `port` that are in one of these states.
fn request(protocol: u8, family: u8, port: u16, states: StateFlags) -> Vec<u8> {
    let mut socket_id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    // The kernel compares the port of each socket, and sends only those on this port.
    socket_id.source_port = port;
    let request = InetRequest {
        family,
        protocol,
        // The kernel sends INET_DIAG_ULP_INFO together with this one.
        extensions: ExtensionFlags::INFO,
        states,
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let payload = SockDiagMessage::InetRequest(request).into();
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What a datagram of the kernel's answer says of the list as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The list ends with this datagram.
    pub done: bool,
    /// The sockets changed while the kernel listed them, so the list may have gaps.
    pub interrupted: bool,
}

/// Adds the listeners on `port` in one datagram of the kernel's answer to `found`.
pub fn read_listeners(
    datagram: &[u8],
    port: u16,
    found: &mut Vec<Listener>,
) -> Result<Progress, SockdiagError> {
    read(datagram, port, listener, found)
}

/// Adds the connections to `port` in one datagram of the kernel's answer to `found`.
pub fn read_connections(
    datagram: &[u8],
    port: u16,
    found: &mut Vec<Connection>,
) -> Result<Progress, SockdiagError> {
    read(datagram, port, connection, found)
}

/// Reads one datagram of the kernel's answer, which holds any number of messages.
fn read<T>(
    datagram: &[u8],
    port: u16,
    parse: Parse<T>,
    found: &mut Vec<T>,
) -> Result<Progress, SockdiagError> {
    let mut progress = Progress::default();
    let mut rest = datagram;
    while !rest.is_empty() && !progress.done {
        let length = NetlinkBuffer::new_checked(rest)
            .map_err(SockdiagError::Malformed)?
            .length() as usize;
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
            .map_err(SockdiagError::Malformed)?;
        progress.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::Done(end) if end.code < 0 => return Err(refused(end.code)),
            NetlinkPayload::Error(error) => return Err(refused(error.raw_code())),
            NetlinkPayload::Done(_) => progress.done = true,
            NetlinkPayload::Overrun(_) => progress.interrupted = true,
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                found.extend(parse(&response, port).map_err(SockdiagError::Malformed)?);
            }
            // The kernel answers this request with nothing else.
            NetlinkPayload::Noop | NetlinkPayload::InnerMessage(_) | _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(progress)
}

/// A listener. None if the socket doesn't listen (any more), or listens on another port.
fn listener(response: &InetResponse, port: u16) -> Result<Option<Listener>, DecodeError> {
    let header = &response.header;
    let id = &header.socket_id;
    if header.state != TCP_LISTEN || id.source_port != port {
        return Ok(None);
    }
    let mut listener = Listener {
        cookie: cookie(id),
        inode: header.inode.into(),
        uid: header.uid,
        local: SocketAddr::new(id.source_address, id.source_port),
        v6only: false,
        device: id.interface_id,
        accept_queue: header.recv_queue,
        backlog: header.send_queue,
        mptcp: false,
    };
    for attribute in &response.nlas {
        if let Nla::SkV6Only(only) = attribute {
            listener.v6only = *only && id.source_address.is_ipv6();
        } else if let Nla::Other(other) = attribute
            && other.kind() & NLA_TYPE_MASK == INET_DIAG_ULP_INFO
        {
            let mut value = vec![0; other.value_len()];
            other.emit_value(&mut value);
            listener.mptcp = has_upper_protocol(&value, b"mptcp")?;
        }
    }
    Ok(Some(listener))
}

#[expect(clippy::unnecessary_wraps, reason = "it is used as a `Parse`")]
fn connection(response: &InetResponse, port: u16) -> Result<Option<Connection>, DecodeError> {
    let header = &response.header;
    Ok((header.socket_id.source_port == port).then(|| Connection {
        cookie: cookie(&header.socket_id),
        inode: header.inode.into(),
    }))
}

fn cookie(id: &SocketId) -> u64 {
    let [low, high] = [0, 4].map(|at| {
        let word = id.cookie[at..].first_chunk().copied();
        u64::from(u32::from_ne_bytes(word.unwrap_or_default()))
    });
    high << 32 | low
}

/// Whether this protocol runs on top of a socket (TLS, MPTCP). The kernel gives its name as a C
/// string.
fn has_upper_protocol(value: &[u8], protocol: &[u8]) -> Result<bool, DecodeError> {
    for attribute in NlasIterator::new(value) {
        let attribute = attribute?;
        if attribute.kind() == INET_ULP_INFO_NAME {
            let name = attribute.value().split(|byte| *byte == 0).next();
            return Ok(name == Some(protocol));
        }
    }
    Ok(false)
}

/// The error of a negative error number.
fn refused(code: i32) -> SockdiagError {
    SockdiagError::Refused(io::Error::from_raw_os_error(code.saturating_neg()))
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> SockdiagError {
    move |source| SockdiagError::Socket { step, source }
}

#[cfg(test)]
mod tests;
