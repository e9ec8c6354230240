//! The TCP listeners of a network namespace, asked of the kernel by `sock_diag`.

use std::{io, net::SocketAddr};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, Nla as _, NlasIterator, parse_string,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

/// What the kernel sends at once is at most 32 KiB.
const BUFFER: usize = 1 << 16;

/// The listening sockets change while they are listed; this often the list is asked for again.
const TRIES: u32 = 8;

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
    #[error("list the TCP listeners: {step} the kernel's sock_diag")]
    Socket {
        /// What was done to the socket.
        step: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("list the TCP listeners: the kernel refused (is the module tcp_diag there?)")]
    Refused(#[source] io::Error),
    /// The answer can't be understood.
    #[error("list the TCP listeners: the kernel's answer is malformed")]
    Malformed(#[source] DecodeError),
    /// An answer was longer than the buffer.
    #[error("list the TCP listeners: an answer of {0} bytes was cut short")]
    Truncated(usize),
    /// The list never held still.
    #[error("list the TCP listeners: they kept changing; try again")]
    Unstable,
}

/// The TCP listeners on `port` in the calling thread's network namespace, of both families, ordered
/// by cookie.
///
/// A listener that appears or goes away during the call may or may not be among them.
///
/// Minimum kernel version: 5.1 (for `mptcp`, 5.7).
pub fn listeners(port: u16) -> Result<Vec<Listener>, SockdiagError> {
    for _ in 0..TRIES {
        let mut found = Vec::new();
        if dump(AF_INET, port, &mut found)? && dump(AF_INET6, port, &mut found)? {
            found.sort_by_key(|listener| listener.cookie);
            found.dedup_by_key(|listener| listener.cookie);
            return Ok(found);
        }
    }
    Err(SockdiagError::Unstable)
}

/// False where the list changed in a way that made the kernel's answer inconsistent.
fn dump(family: u8, port: u16, found: &mut Vec<Listener>) -> Result<bool, SockdiagError> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    // From here on only the kernel can send to it.
    socket
        .connect(&NetlinkAddr::new(0, 0))
        .map_err(failed("connect to"))?;
    socket
        .send(&request(family, port), 0)
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
        let progress = read(datagram, port, found)?;
        consistent &= !progress.interrupted;
        if progress.done {
            return Ok(consistent);
        }
    }
}

/// The request for all listeners of `family` on `port`.
fn request(family: u8, port: u16) -> Vec<u8> {
    let mut socket_id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    // The kernel compares it for each listener that it lists, so that only ours are sent.
    socket_id.source_port = port;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        // INET_DIAG_ULP_INFO comes with this one.
        extensions: ExtensionFlags::INFO,
        states: StateFlags::LISTEN,
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

#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    done: bool,
    interrupted: bool,
}

/// Reads one datagram of the kernel's answer, which holds any number of messages.
fn read(datagram: &[u8], port: u16, found: &mut Vec<Listener>) -> Result<Progress, SockdiagError> {
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
            NetlinkPayload::Done(end) if end.code < 0 => {
                let error = io::Error::from_raw_os_error(end.code.saturating_neg());
                return Err(SockdiagError::Refused(error));
            }
            NetlinkPayload::Error(error) => {
                return Err(SockdiagError::Refused(error.to_io()));
            }
            NetlinkPayload::Done(_) => progress.done = true,
            NetlinkPayload::Overrun(_) => progress.interrupted = true,
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let listener = listener(&response).map_err(SockdiagError::Malformed)?;
                found.extend(listener.filter(|listener| listener.local.port() == port));
            }
            // Nothing else answers this request.
            NetlinkPayload::Noop | NetlinkPayload::InnerMessage(_) | _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(progress)
}

/// None where the socket doesn't listen (any more).
fn listener(response: &InetResponse) -> Result<Option<Listener>, DecodeError> {
    let header = &response.header;
    if header.state != TCP_LISTEN {
        return Ok(None);
    }
    let id = &header.socket_id;
    let [low, high] = [0, 4].map(|at| {
        let word = id.cookie[at..].first_chunk().copied();
        u64::from(u32::from_ne_bytes(word.unwrap_or_default()))
    });
    let mut listener = Listener {
        cookie: high << 32 | low,
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
            && other.kind() == INET_DIAG_ULP_INFO
        {
            let mut value = vec![0; other.value_len()];
            other.emit_value(&mut value);
            listener.mptcp = upper_protocol(&value)?.as_deref() == Some("mptcp");
        }
    }
    Ok(Some(listener))
}

/// The name of what runs on top of a socket (TLS, MPTCP).
fn upper_protocol(value: &[u8]) -> Result<Option<String>, DecodeError> {
    for attribute in NlasIterator::new(value) {
        let attribute = attribute?;
        if attribute.kind() == INET_ULP_INFO_NAME {
            return parse_string(attribute.value()).map(Some);
        }
    }
    Ok(None)
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> SockdiagError {
    move |source| SockdiagError::Socket { step, source }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv6Addr, TcpListener, TcpStream},
        os::{fd::AsFd, unix::fs::MetadataExt as _},
    };

    use netlink_packet_core::DefaultNla;
    use netlink_packet_sock_diag::inet::InetResponseHeader;
    use proptest::prelude::*;
    use rustix::net::{
        AddressFamily, SocketAddrV6, SocketFlags, SocketType, bind, ipproto, listen, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseport},
    };

    use super::*;
    use crate::sockopt;

    fn inode(socket: impl AsFd) -> u64 {
        let file = std::fs::File::from(socket.as_fd().try_clone_to_owned().expect("a duplicate"));
        file.metadata().expect("its inode").ino()
    }

    #[test]
    fn a_listener_is_told_as_it_is() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = socket.local_addr().expect("its address");
        let _waiting = TcpStream::connect(address).expect("a connection");
        let found = listeners(address.port()).expect("the listeners");
        let [listener] = found.as_slice() else {
            panic!("one listener, not {found:?}");
        };
        assert_eq!(listener.cookie, sockopt::cookie(&socket).expect("a cookie"));
        assert_eq!(listener.inode, inode(&socket));
        assert_eq!(listener.uid, rustix::process::geteuid().as_raw());
        assert_eq!(listener.local, address);
        assert_eq!(
            (listener.v6only, listener.mptcp, listener.device),
            (false, false, 0)
        );
        assert_eq!(listener.accept_queue, 1);
        assert!(listener.backlog >= 128);
    }

    #[test]
    fn a_port_without_listeners_has_none() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = socket.local_addr().expect("its address").port();
        let _connection = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        drop(socket);
        assert_eq!(listeners(port).expect("the listeners"), []);
    }

    fn ipv6(v6only: bool, port: u16) -> std::os::fd::OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(ipproto::TCP);
        let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, protocol)
            .expect("a socket");
        set_socket_reuseport(&socket, true).expect("the option");
        set_ipv6_v6only(&socket, v6only).expect("the option");
        let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
        bind(&socket, &address).expect("the port");
        listen(&socket, 77).expect("a listener");
        socket
    }

    #[test]
    fn both_kinds_of_ipv6_listener_are_told_apart() {
        let dual = ipv6(false, 0);
        let address = rustix::net::getsockname(&dual).expect("its address");
        let port = SocketAddrV6::try_from(address).expect("IPv6").port();
        let only = ipv6(true, port);
        let found = listeners(port).expect("the listeners");
        let mut expected = [(&dual, false), (&only, true)]
            .map(|(socket, v6only)| (sockopt::cookie(socket).expect("a cookie"), v6only));
        expected.sort_unstable();
        let told: Vec<_> = found
            .iter()
            .map(|listener| (listener.cookie, listener.v6only))
            .collect();
        assert_eq!(told, expected);
        assert!(found.iter().all(|listener| listener.backlog == 77));
    }

    /// An answer as the kernel would give it.
    fn answer() -> Vec<u8> {
        let mut socket_id = SocketId::new_v6();
        socket_id.source_port = 80;
        socket_id.cookie = [1, 0, 0, 0, 2, 0, 0, 0];
        let ulp = [
            &10_u16.to_ne_bytes()[..],
            &1_u16.to_ne_bytes(),
            b"mptcp\0\0\0",
        ]
        .concat();
        let response = InetResponse {
            header: InetResponseHeader {
                family: AF_INET6,
                state: TCP_LISTEN,
                timer: None,
                socket_id,
                recv_queue: 3,
                send_queue: 512,
                uid: 1000,
                inode: 4711,
            },
            nlas: [
                Nla::SkV6Only(true),
                Nla::Other(DefaultNla::new(INET_DIAG_ULP_INFO, ulp)),
            ]
            .into_iter()
            .collect(),
        };
        let payload = SockDiagMessage::InetResponse(Box::new(response)).into();
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let done = [20_u32, 3, 0, 0, 0].map(u32::to_ne_bytes).concat();
        [bytes.clone(), bytes, done].concat()
    }

    #[test]
    fn an_answer_of_several_messages_is_read_to_its_end() {
        let mut found = Vec::new();
        let progress = read(&answer(), 80, &mut found).expect("the answer");
        assert!(progress.done && !progress.interrupted);
        let [first, second] = found.as_slice() else {
            panic!("two listeners, not {found:?}");
        };
        assert_eq!(first, second);
        assert_eq!(first.cookie, 2 << 32 | 1);
        assert_eq!((first.uid, first.inode), (1000, 4711));
        assert_eq!((first.accept_queue, first.backlog), (3, 512));
        assert!(first.v6only && first.mptcp);

        found.clear();
        read(&answer(), 81, &mut found).expect("the answer");
        assert_eq!(found, [], "another port's");
    }

    #[test]
    fn a_changed_list_is_noticed() {
        let mut changed = answer();
        changed[6] |= NLM_F_DUMP_INTR as u8;
        let progress = read(&changed, 80, &mut Vec::new()).expect("the answer");
        assert!(progress.interrupted);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let error = [36_u32, 2, 0, 0, -libc::ENOENT as u32, 20, 0, 0, 0];
        let error = error.map(u32::to_ne_bytes).concat();
        let refused = read(&error, 80, &mut Vec::new()).expect_err("a refusal");
        assert!(
            matches!(&refused, SockdiagError::Refused(source) if source.kind() == io::ErrorKind::NotFound),
            "{refused:?}"
        );
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let whole = answer();
        for length in [1, 15, 16, 40, whole.len() / 2, whole.len() - 1] {
            let error = read(&whole[..length], 80, &mut Vec::new());
            assert!(
                matches!(error, Err(SockdiagError::Malformed(_))),
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in 0..400_usize,
        ) {
            let mut bytes = answer();
            for (place, value) in damage {
                *place.get_mut(&mut bytes) = value;
            }
            bytes.truncate(cut);
            let _result = read(&bytes, 80, &mut Vec::new());
        }

        #[test]
        fn no_rubbish_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _result = read(&bytes, 80, &mut Vec::new());
        }
    }
}
