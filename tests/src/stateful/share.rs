//! Whether each live listener has its share of new connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use socket2::{Domain, Socket, Type};
use steer_common::policy::Policy;

use super::{
    model::{Model, Steered},
    random::Random,
};
use crate::{churn::load::answering_of, packet, patience::patience, workers::local};

/// Connections among which each worker is sure to have one: the smallest share of all is a sixtieth.
const SURE: usize = 1500;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that stays open, and the mark of the listener that has it.
#[derive(Debug)]
pub struct Held {
    /// The mark.
    pub mark: u32,
    /// The client's end.
    pub stream: TcpStream,
}

/// Opens connections and keeps them until every eligible listener has had one. Half-open probes come in
/// between where no policy has to give those a turn.
///
/// # Errors
/// When one gets none.
pub fn all_are_served(
    port: u16,
    model: &Model,
    random: &mut Random,
    probes: &packet::Sender,
) -> anyhow::Result<Vec<Held>> {
    let wanted: BTreeSet<u32> = model.eligible().into_iter().collect();
    let mut missing = wanted.clone();
    let mut held = Vec::new();
    let alternates = matches!(model.steered.policy(), Some(Policy::Least | Policy::P2c));
    while !missing.is_empty() {
        if held.len() >= SURE {
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            for Held { mark, .. } in &held {
                *counts.entry(*mark).or_default() += 1;
            }
            bail!("of {SURE} connections {missing:?} had none: {counts:?}");
        }
        let client = stranger(random);
        if alternates || random.below(2) == 0 {
            half_open(probes, client, port, random)?;
        }
        let one = hold(client, port).with_context(|| format!("missing {missing:?}"))?;
        missing.remove(&one.mark);
        held.push(one);
    }
    Ok(held)
}

/// Whether `rr` is exact: two rounds give each listener twice its weight.
///
/// # Errors
/// When it isn't, or doesn't apply.
pub fn is_exact(port: u16, model: &Model) -> anyhow::Result<()> {
    let eligible = model.eligible();
    let known = model.known();
    let weights = known
        .values()
        .filter(|listener| eligible.contains(&listener.mark));
    let wanted: BTreeMap<u32, usize> = weights
        .map(|listener| (listener.mark, 2 * listener.rules.weight as usize))
        .collect();
    let mut served: BTreeMap<u32, usize> = BTreeMap::new();
    for _ in 0..wanted.values().sum() {
        let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let (mark, _) = ask(from, port, "0")?;
        *served.entry(mark).or_default() += 1;
    }
    ensure!(served == wanted, "rr gave {served:?}, not {wanted:?}");
    Ok(())
}

/// Whether [`is_exact`] can be asked.
pub fn is_countable(model: &Model) -> bool {
    model.steered == Steered::Followed(Policy::Rr)
}

/// A health check that opens no connection: it resets at the SYN-ACK.
///
/// # Errors
/// When it can't be sent.
pub fn half_open(
    probes: &packet::Sender,
    client: SocketAddrV4,
    port: u16,
    random: &mut Random,
) -> anyhow::Result<()> {
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    // No socket has that port, so the kernel itself resets.
    let from = SocketAddrV4::new(*client.ip(), 1024 + random.below(20_000) as u16);
    probes.send(from, to, packet::Flags::Syn)
}

/// Any address of loopback's network.
pub fn stranger(random: &mut Random) -> SocketAddrV4 {
    let [a, b, c] = [(); 3].map(|()| random.below(250) as u8 + 2);
    SocketAddrV4::new(Ipv4Addr::new(127, a, b, c), 0)
}

/// Opens a connection that stays open.
///
/// # Errors
/// When nobody answers.
pub fn hold(client: SocketAddrV4, port: u16) -> anyhow::Result<Held> {
    let (mark, stream) = ask(client, port, "hold")?;
    Ok(Held { mark, stream })
}

/// Asks for a path; returns the mark of who answered.
fn ask(client: SocketAddrV4, port: u16, path: &str) -> anyhow::Result<(u32, TcpStream)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::V4(client).into())?;
    socket
        .connect(&local(port).into())
        .context("failed to connect")?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience(PATIENCE)))?;
    let request = format!("GET /{path} HTTP/1.1\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    loop {
        let read = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.context("no answer")?,
        };
        answer.extend(&buffer[..read]);
        if let Some(mark) = answering_of(&answer) {
            return Ok((mark, stream));
        }
        ensure!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
}
