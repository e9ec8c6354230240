//! Where nftables looks listeners up before TCP does, the program sees each packet from its IP header on, and
//! more than once.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use etherparse::{IpNumber, Ipv6Header, TcpHeader};
use socket2::{Domain, Protocol, Socket, Type};
use steer_tests::{
    PORT,
    isolate::isolate,
    net::sysctl,
    packet::{Flags, Sender, build_with},
    skip::{Skip, skip},
    status::Group,
    steer::{Attach, status},
};

/// Connections of each client.
const EACH: usize = 30;
const WORKERS: usize = 3;

/// Clients whose addresses the program would take for the flags of other segments, were it to look for these
/// in the IP header: nothing, FIN, SYN, RST, ACK.
const CLIENTS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(127, 0, 0, 9),
    Ipv4Addr::new(127, 1, 0, 9),
    Ipv4Addr::new(127, 2, 0, 9),
    Ipv4Addr::new(127, 4, 0, 9),
    Ipv4Addr::new(127, 16, 0, 9),
];

/// Puts rules into force; false, and said, where this kernel has none of the kind.
fn rules(test: &str, rules: &str) -> anyhow::Result<bool> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    nft.stdin(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut nft) = nft.spawn() else {
        let (name, package) = ("nft", "nftables");
        skip(test, &Skip::Program { name, package })?;
        return Ok(false);
    };
    let mut stdin = nft.stdin.take().context("a pipe")?;
    stdin.write_all(rules.as_bytes())?;
    drop(stdin);
    if !nft.wait()?.success() {
        let lacks = "nftables' tproxy or socket expressions";
        skip(test, &Skip::Kernel { lacks })?;
        return Ok(false);
    }
    Ok(true)
}

fn route_to_loopback(prefix: &str) -> anyhow::Result<()> {
    let mut ip = Command::new("ip");
    let status = ip.args(["route", "add", "local", prefix, "dev", "lo"]);
    ensure!(status.status()?.success(), "failed to route {prefix}");
    Ok(())
}

/// Listeners that take what is for any address.
fn listeners(address: SocketAddr) -> anyhow::Result<Vec<Socket>> {
    (0..WORKERS)
        .map(|_| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            if address.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(256)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}

/// How many connections wait for each listener.
fn accepted(listeners: &[Socket]) -> Vec<usize> {
    listeners
        .iter()
        .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
        .collect()
}

fn connect(from: Ipv4Addr, to: SocketAddrV4) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(from, 0).into())?;
    socket
        .connect(&to.into())
        .with_context(|| format!("from {from}"))
}

fn group() -> anyhow::Result<Group> {
    let mut groups = status(PORT)?.groups;
    ensure!(groups.len() == 1, "{groups:?}");
    groups.pop().context("a group")
}

fn every_client_takes_turns(to: SocketAddrV4) -> anyhow::Result<()> {
    let listeners = listeners(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    // Nobody accepts in between.
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let mut selected = 0;
    for client in CLIENTS {
        for _ in 0..EACH {
            connect(client, to)?;
        }
        selected += EACH as u64;
        let each = accepted(&listeners);
        ensure!(each == [EACH / WORKERS; WORKERS], "from {client}: {each:?}");
        let group = group()?;
        ensure!(
            group.selected == selected && group.hashed == 0,
            "from {client}: {group:?}"
        );
    }
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn what_a_transparent_proxy_hands_over_takes_turns() -> anyhow::Result<()> {
    isolate()?;
    let found = rules(
        "what_a_transparent_proxy_hands_over_takes_turns",
        "table ip early {
            chain pre {
                type filter hook prerouting priority mangle;
                ip daddr 198.51.100.0/24 tcp dport 443 tproxy to :3000 accept
            }
        }",
    )?;
    if !found {
        return Ok(());
    }
    route_to_loopback("198.51.100.0/24")?;
    // They are answered from that address.
    sysctl("ipv4/conf/all/rp_filter", "0")?;
    every_client_takes_turns(SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 443))
}

#[test]
#[ignore = "privileged"]
fn what_is_looked_up_twice_takes_one_turn() -> anyhow::Result<()> {
    isolate()?;
    let found = rules(
        "what_is_looked_up_twice_takes_one_turn",
        "table ip early {
            chain pre {
                type filter hook prerouting priority mangle;
                tcp dport 3000 socket transparent 0 counter
                tcp dport 3000 socket wildcard 1 counter
            }
        }",
    )?;
    if !found {
        return Ok(());
    }
    every_client_takes_turns(SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT))
}

#[test]
#[ignore = "privileged"]
fn cookies_that_are_looked_up_twice_take_one_turn() -> anyhow::Result<()> {
    if !looked_up_early("cookies_that_are_looked_up_twice_take_one_turn", "ip")? {
        return Ok(());
    }
    sysctl("ipv4/tcp_syncookies", "2")?;
    let listeners = listeners(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    for _ in 0..EACH {
        connect(CLIENTS[2], SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT))?;
    }
    let each = accepted(&listeners);
    ensure!(each == [EACH / WORKERS; WORKERS], "{each:?}");
    let group = group()?;
    ensure!(group.cookie_acks == EACH as u64, "{group:?}");
    attach.detach()
}

/// A room in which a packet's listener is looked up before it is routed, and then again; false where that
/// can't be.
fn looked_up_early(test: &str, family: &str) -> anyhow::Result<bool> {
    isolate()?;
    let rule = "tcp dport 3000 socket transparent 0 counter";
    let chain = format!("type filter hook prerouting priority mangle\n{rule}");
    rules(
        test,
        &format!("table {family} early {{\nchain pre {{\n{chain}\n}}\n}}"),
    )
}

/// A SYN from ::1 with so many headers of options before TCP's.
fn syn_with_extensions(source: u16, extensions: u16) -> anyhow::Result<Vec<u8>> {
    /// Destination options, which say nothing, and Hop-by-Hop ones, which must come first.
    const OPTIONS: u8 = 60;
    const HOP_BY_HOP: u8 = 0;
    let mut tcp = TcpHeader::new(source, PORT, u32::from(source) << 8, 64240);
    tcp.syn = true;
    let address = Ipv6Addr::LOCALHOST.octets();
    let kind = |index| match index {
        0 => HOP_BY_HOP,
        index if index < extensions => OPTIONS,
        _ => IpNumber::TCP.0,
    };
    let header = Ipv6Header {
        payload_length: 8 * extensions + 20,
        next_header: if extensions == 0 {
            IpNumber::TCP
        } else {
            IpNumber(kind(0))
        },
        hop_limit: 64,
        source: address,
        destination: address,
        ..Ipv6Header::default()
    };
    tcp.checksum = tcp.calc_checksum_ipv6(&header, &[])?;
    let mut packet = Vec::new();
    header.write(&mut packet)?;
    for index in 1..=extensions {
        // The next one's kind, eight bytes of length, and an option of six bytes of padding.
        packet.extend([kind(index), 0, 1, 4, 0, 0, 0, 0]);
    }
    tcp.write(&mut packet)?;
    Ok(packet)
}

#[test]
#[ignore = "privileged"]
fn ipv6_extension_headers_are_gone_through() -> anyhow::Result<()> {
    if !looked_up_early("ipv6_extension_headers_are_gone_through", "ip6")? {
        return Ok(());
    }
    let address = SocketAddrV6::new(Ipv6Addr::LOCALHOST, PORT, 0, 0);
    let _listeners = listeners(address.into())?;
    let attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let sender = Socket::new(Domain::IPV6, Type::RAW, Some(raw))?;
    let mut selected = 0;
    for extensions in 0..=4 {
        for number in 0..6 {
            let source = 20_000 + 100 * extensions + number;
            let packet = syn_with_extensions(source, extensions)?;
            let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
            sender.send_to(&packet, &to.into())?;
            selected += 1;
        }
        let group = group()?;
        ensure!(
            group.selected == selected && group.hashed == 0,
            "{extensions} extension headers: {group:?}"
        );
    }
    let group = group()?;
    let each: Vec<u64> = group.workers.iter().map(|worker| worker.selected).collect();
    ensure!(each == [selected / 3; WORKERS], "{each:?}");
    attach.detach()
}

/// A TCP header can begin as an IP header does: with a source port of 0x45.. and its length for a
/// destination port.
#[test]
#[ignore = "privileged"]
fn a_tcp_header_that_looks_like_an_ip_header_is_one() -> anyhow::Result<()> {
    const LOW: u16 = 60;
    isolate()?;
    let _listeners: Vec<Socket> = (0..WORKERS)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, LOW).into())?;
            socket.listen(256)?;
            anyhow::Ok(socket)
        })
        .collect::<Result<_, _>>()?;
    let attach = Attach::start(LOW, "rr", &["--eject-after", "0"])?;
    let sender = Sender::new()?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, LOW);
    for number in 0..30_u16 {
        // The header's 20 bytes, and data: 60 in all.
        let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0x4500 + number);
        let packet = build_with(from, to, Flags::Syn, &[0; LOW as usize - 20])?;
        sender.send_built(&packet, to)?;
    }
    let seen = status(LOW)?;
    let group = &seen.groups[0];
    ensure!(group.selected == 30 && group.hashed == 0, "{group:?}");
    attach.detach()
}
