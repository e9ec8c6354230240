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
use crate::sys::sockopt;

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
    let socket =
        socket_with(AddressFamily::INET6, SocketType::STREAM, flags, protocol).expect("a socket");
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
    answer_with(INET_DIAG_ULP_INFO)
}

fn answer_with(ulp_kind: u16) -> Vec<u8> {
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
            Nla::Other(DefaultNla::new(ulp_kind, ulp)),
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
    let progress = read(&answer(), 80, listener, &mut found).expect("the answer");
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
    read(&answer(), 81, listener, &mut found).expect("the answer");
    assert_eq!(found, [], "another port's");
}

#[test]
fn a_flag_does_not_hide_mptcp() {
    const NLA_F_NESTED: u16 = 0x8000;
    let flagged = answer_with(INET_DIAG_ULP_INFO | NLA_F_NESTED);
    let mut found = Vec::new();
    read(&flagged, 80, listener, &mut found).expect("the answer");
    assert!(found.iter().all(|listener| listener.mptcp), "{found:?}");
    assert_eq!(found.len(), 2);
}

#[test]
fn a_changed_list_is_noticed() {
    let mut changed = answer();
    changed[6] |= NLM_F_DUMP_INTR as u8;
    let progress = read(&changed, 80, listener, &mut Vec::new()).expect("the answer");
    assert!(progress.interrupted);
}

#[test]
fn a_refusal_is_an_error() {
    let error = [36_u32, 2, 0, 0, -libc::ENOENT as u32, 20, 0, 0, 0];
    let error = error.map(u32::to_ne_bytes).concat();
    let refused = read(&error, 80, listener, &mut Vec::new()).expect_err("a refusal");
    assert!(
        matches!(&refused, SockdiagError::Refused(source) if source.kind() == io::ErrorKind::NotFound),
        "{refused:?}"
    );
}

#[test]
fn an_error_that_has_no_opposite_is_an_error() {
    let error = [36_u32, 2, 0, 0, i32::MIN.cast_unsigned(), 20, 0, 0, 0];
    let error = error.map(u32::to_ne_bytes).concat();
    let refused = read(&error, 80, listener, &mut Vec::new());
    assert!(matches!(refused, Err(SockdiagError::Refused(_))));
}

#[test]
fn a_cut_answer_is_an_error() {
    let whole = answer();
    for length in [1, 15, 16, 40, whole.len() / 2, whole.len() - 1] {
        let error = read(&whole[..length], 80, listener, &mut Vec::new());
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
        let _result = read(&bytes, 80, listener, &mut Vec::new());
    }

    #[test]
    fn no_rubbish_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _result = read(&bytes, 80, listener, &mut Vec::new());
    }
}
