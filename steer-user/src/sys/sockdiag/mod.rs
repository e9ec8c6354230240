//! The TCP listeners and connections, and UDP sockets, of a network namespace, asked of the kernel by `sock_diag`.

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

/// What the kernel sends at once is at most 32 KiB.
const BUFFER: usize = 1 << 16;

/// The listening sockets change while they are listed; this often the list is asked for again.
const TRIES: u32 = 8;

/// The type of an attribute without its flags, which a kernel may set or not.
const NLA_TYPE_MASK: u16 = 0x3fff;

const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The socket's cookie, which no other socket has or had since boot.
    pub cookie: u64,
    /// The socket's inode, as `/proc/PID/fd` shows it. 0 where no process has it open.
    pub inode: u64,
    /// The user id that made it. Only listeners of one user share a group.
    pub uid: u32,
    /// The local address and port. The scope of an IPv6 address is left 0: see `device`.
    pub local: SocketAddr,
    /// Whether an IPv6 listener leaves IPv4 to others. False for IPv4.
    pub v6only: bool,
    /// The index of the network device it is bound to, 0 for none.
    pub device: u32,
    /// How many connections wait to be accepted.
    pub accept_queue: u32,
    /// How many may wait.
    pub backlog: u32,
    /// Whether it is the TCP half of an MPTCP listener, which can't be steered. Its cookie is not the
    /// one that its worker's descriptor tells; its inode is.
    pub mptcp: bool,
}

/// Why the listeners can't be told.
#[derive(Debug, thiserror::Error)]
pub enum SockdiagError {
    /// A system call on the netlink socket failed.
    #[error("list the TCP sockets: {step} the kernel's sock_diag")]
    Socket {
        /// What was done to the socket.
        step: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("list the TCP sockets: the kernel refused")]
    Refused(#[source] io::Error),
    /// The answer can't be understood.
    #[error("list the TCP sockets: the kernel's answer is malformed")]
    Malformed(#[source] DecodeError),
    /// An answer was longer than the buffer.
    #[error("list the TCP sockets: an answer of {0} bytes was cut short")]
    Truncated(usize),
    /// The list never held still.
    #[error("list the TCP sockets: they kept changing; try again")]
    Unstable,
}

/// The TCP listeners on `port` in the calling thread's network namespace, of both families, ordered
/// by cookie.
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

/// Checks that the kernel lists TCP sockets. The module that does is loaded by the kernel itself where
/// it can be.
pub fn require() -> Result<(), SockdiagError> {
    // Of one port, which is cheap however many listeners there are.
    listeners(u16::MAX).map(|_found| ())
}

/// A connection that its worker has not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The socket's cookie.
    pub cookie: u64,
    /// The socket's inode; 0 where no process has it open, as before accept().
    pub inode: u64,
}

/// The connections to `port` that their workers have not closed, in the calling thread's network
/// namespace. One that opens or closes during the call may or may not be among them.
///
/// Minimum kernel version: 5.1.
pub fn connections(port: u16) -> Result<Vec<Connection>, SockdiagError> {
    let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        // They come and go all the time: whatever the kernel lists is good enough.
        let states = states.clone();
        dump(IPPROTO_TCP, family, port, states, connection, &mut found)?;
    }
    Ok(found)
}

/// Whether a UDP socket that receives from anybody is bound to `port`, in the calling thread's network namespace.
///
/// Minimum kernel version: 3.3.
pub fn has_udp(port: u16) -> Result<bool, SockdiagError> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        // The state of one that isn't connected.
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

/// Reads what the kernel tells of a socket; None where it isn't one of those asked for.
type Parse<T> = fn(&InetResponse, u16) -> Result<Option<T>, DecodeError>;

/// False where the list changed in a way that made the kernel's answer inconsistent.
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
    // From here on only the kernel can send to it.
    socket
        .connect(&NetlinkAddr::new(0, 0))
        .map_err(failed("connect to"))?;
    socket
        .send(&request(protocol, family, port, states), 0)
        .map_err(failed("ask"))?;

    let mut buffer = vec![0; BUFFER];
    let mut consistent = true;
    loop {
        // With MSG_TRUNC the length is the whole message's, also of what didn't fit.
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

/// The request for all sockets of `family` on `port` in one of these states.
fn request(protocol: u8, family: u8, port: u16, states: StateFlags) -> Vec<u8> {
    let mut socket_id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    // The kernel compares it for each listener that it lists, so that only ours are sent.
    socket_id.source_port = port;
    let request = InetRequest {
        family,
        protocol,
        // INET_DIAG_ULP_INFO comes with this one.
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

/// How far a datagram of the kernel's answer brings the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The list ends here.
    pub done: bool,
    /// The sockets changed meanwhile, so that the list may have gaps.
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
            // Nothing else answers this request.
            NetlinkPayload::Noop | NetlinkPayload::InnerMessage(_) | _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(progress)
}

/// None where the socket doesn't listen (any more), or on another port.
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

/// Whether that is what runs on top of a socket (TLS, MPTCP): a name of C, which ends with a zero.
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

/// What a negative error number says.
fn refused(code: i32) -> SockdiagError {
    SockdiagError::Refused(io::Error::from_raw_os_error(code.saturating_neg()))
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> SockdiagError {
    move |source| SockdiagError::Socket { step, source }
}

#[cfg(test)]
mod tests;
