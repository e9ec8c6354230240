//! TCP segments that no socket sent.

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::Context as _;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

/// Longest segment that is sent or seen here, in bytes.
const LONGEST: usize = 2048;

/// Hosts and ports that [`stranger`] uses. One divides the other, so the host moves on when the
/// ports begin again.
const HOSTS: u32 = 250;
const PORTS: u32 = 60_000;

/// The flags of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// What begins a connection.
    Syn,
    /// What answers that.
    SynAck,
    /// Anything of an established connection.
    Ack,
    /// The end of a direction.
    Fin,
    /// The end of it all.
    Rst,
}

impl Flags {
    /// Everything that begins no connection.
    pub const STRAY: [Self; 4] = [Self::Ack, Self::Rst, Self::Fin, Self::SynAck];
}

/// Sends segments from any address.
#[derive(Debug)]
pub struct Sender(Socket);

impl Sender {
    /// A sender in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses a raw socket.
    pub fn new() -> anyhow::Result<Self> {
        // IPPROTO_RAW: what is sent begins with its own IP header.
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw));
        socket.map(Self).context("failed to open a raw socket")
    }

    /// Sends a segment. By the time it returns, loopback has delivered it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send(&self, from: SocketAddrV4, to: SocketAddrV4, flags: Flags) -> anyhow::Result<()> {
        self.send_built(&build(from, to, flags)?, to)
    }

    /// Sends what [`build`] has built.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_built(&self, packet: &[u8], to: SocketAddrV4) -> anyhow::Result<()> {
        self.0
            .send_to(packet, &to.into())
            .with_context(|| format!("failed to send a segment to {to}"))?;
        Ok(())
    }
}

/// A segment with its IP header.
///
/// # Errors
/// When it can't be built.
pub fn build(from: SocketAddrV4, to: SocketAddrV4, flags: Flags) -> anyhow::Result<Vec<u8>> {
    build_with(from, to, flags, &[])
}

/// The same with data, which a SYN has where TCP Fast Open is used.
///
/// # Errors
/// As [`build`].
pub fn build_with(
    from: SocketAddrV4,
    to: SocketAddrV4,
    flags: Flags,
    data: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64).tcp(
        from.port(),
        to.port(),
        // Any sequence number, but not the same for all.
        u32::from(from.port()) << 8,
        64240,
    );
    let builder = match flags {
        Flags::Syn => builder.syn(),
        Flags::SynAck => builder.syn().ack(1),
        Flags::Ack => builder.ack(1),
        Flags::Fin => builder.fin(),
        Flags::Rst => builder.rst(),
    };
    let mut packet = Vec::with_capacity(builder.size(data.len()));
    builder
        .write(&mut packet, data)
        .context("failed to build a segment")?;
    Ok(packet)
}

/// An address that nobody has, from which [`Sender`] can send: another one for every number, up to
/// fifteen million.
pub fn stranger(number: u32) -> SocketAddrV4 {
    let [a, b, c, _] = crate::net::NOWHERE.octets();
    let host = ((number + number / PORTS) % HOSTS) as u8 + 1;
    let port = 1024 + (number % PORTS) as u16;
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, host), port)
}

/// Sees the segments that arrive in the network namespace.
#[derive(Debug)]
pub struct Sniffer(Socket);

/// A segment that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Port that it came from.
    pub source_port: u16,
    /// Port that it went to.
    pub destination_port: u16,
    /// Its flags, `None` for combinations that [`Flags`] doesn't have.
    pub flags: Option<Flags>,
}

impl Sniffer {
    /// A sniffer in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses a raw socket.
    pub fn new() -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))
            .context("failed to open a raw socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self(socket))
    }

    /// The next segment to a port.
    ///
    /// # Errors
    /// When nothing arrives for 200 ms.
    pub fn next_to(&self, port: u16) -> anyhow::Result<Seen> {
        loop {
            let seen = self.next()?;
            if seen.destination_port == port {
                return Ok(seen);
            }
        }
    }

    fn next(&self) -> anyhow::Result<Seen> {
        let mut buffer = [0; LONGEST];
        let length = (&self.0).read(&mut buffer)?;
        let sliced = SlicedPacket::from_ip(&buffer[..length])?;
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            anyhow::bail!("a packet that isn't TCP");
        };
        let flags = match (tcp.syn(), tcp.ack(), tcp.fin(), tcp.rst()) {
            (true, false, false, false) => Some(Flags::Syn),
            (true, true, false, false) => Some(Flags::SynAck),
            (false, true, false, false) => Some(Flags::Ack),
            (false, false, true, false) => Some(Flags::Fin),
            (false, false, false, true) => Some(Flags::Rst),
            _ => None,
        };
        Ok(Seen {
            source_port: tcp.source_port(),
            destination_port: tcp.destination_port(),
            flags,
        })
    }
}
