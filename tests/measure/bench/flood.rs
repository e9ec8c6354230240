//! What a SYN of a flood costs, steered against unsteered.
//!
//! The flood comes from addresses that nobody has, and all handshake queues are full: the kernel
//! answers each SYN with a cookie. One thread sends, and what loopback does with a segment is part
//! of its call. Of that the sending itself is taken off: what it costs where nobody wants the
//! segment.

use std::{fmt::Write as _, net::SocketAddrV4};

use steer_common::policy::Policy;
use steer_tests::{
    PORT,
    net::NOWHERE,
    packet::{Flags, Sender, build, stranger},
    server::Server,
    steer::Attach,
};

use crate::{processor_time, summary::Summary};

/// Rounds; in each, every case has its turn.
const ROUNDS: usize = 12;
/// SYNs of a turn.
const SYNS: usize = 5000;
/// Workers of the measured groups.
const GROUPS: [usize; 2] = [8, 64];
/// SYNs that fill the queues, a worker: more than their limit.
const FILL: usize = 700;
/// SYNs before a turn, which replace what has expired.
const WARM_UP: usize = 500;

/// What is done to the group in a turn.
const CASES: [(&str, Option<Policy>); 4] = [
    ("unsteered", None),
    ("unsteered, once more", None),
    ("rr", Some(Policy::Rr)),
    ("least", Some(Policy::Least)),
];

/// Nanoseconds a SYN without its sending, one value a round.
#[derive(Clone, Debug)]
pub(crate) struct Flood {
    case: &'static str,
    workers: usize,
    rounds: Vec<f64>,
}

/// Measures every case in every round.
pub(crate) fn measure() -> anyhow::Result<Vec<Flood>> {
    let mut floods = Vec::new();
    let mut source = Source::new()?;
    for workers in GROUPS {
        let _server = Server::start(PORT, workers)?;
        source.send(workers * FILL, PORT)?;
        let mut cases = CASES.map(|(case, _)| Flood {
            case,
            workers,
            rounds: Vec::new(),
        });
        for round in 0..ROUNDS {
            for place in 0..CASES.len() {
                let place = (round + place) % CASES.len();
                let (_, policy) = CASES[place];
                let attach = policy.map(|policy| Attach::start(PORT, policy.name(), &[]));
                let attach = attach.transpose()?;
                source.send(WARM_UP, PORT)?;
                let whole = source.send(SYNS, PORT)?;
                if let Some(attach) = attach {
                    attach.detach()?;
                }
                cases[place].rounds.push(whole - source.send_nowhere(SYNS)?);
            }
        }
        floods.extend(cases);
    }
    Ok(floods)
}

/// The cases as a table.
pub(crate) fn table(floods: &[Flood]) -> String {
    let mut table = format!(
        "Nanoseconds of processor time that a SYN of a flood costs, its sending not included, and\n\
         their ratio to the unsteered ones of the same round: median [quartiles] of {ROUNDS} rounds of\n\
         {SYNS} SYNs.\n\n\
         {:<36}{:>8}{:>14}{:>9}{:>18}\n",
        "", "median", "[quartiles]", "ratio", "[quartiles]"
    );
    for floods in floods.chunks(CASES.len()) {
        for flood in floods {
            let ratios = flood.rounds.iter().zip(&floods[0].rounds);
            let (Some(cost), Some(ratio)) = (
                Summary::of(flood.rounds.iter().copied()),
                Summary::of(ratios.map(|(cost, base)| cost / base)),
            ) else {
                continue;
            };
            let case = format!("{} workers, {}", flood.workers, flood.case);
            let cost_range = format!("[{:.0}, {:.0}]", cost.low, cost.high);
            let ratio_range = format!("[{:.3}, {:.3}]", ratio.low, ratio.high);
            // Writing to a String can't fail.
            let _ = writeln!(
                table,
                "{case:<36}{:>8.0}{cost_range:>14}{:>9.3}{ratio_range:>18}",
                cost.median, ratio.median,
            );
        }
    }
    table
}

/// Where the flood comes from: every SYN from another address.
struct Source {
    sender: Sender,
    next: u32,
}

impl Source {
    fn new() -> anyhow::Result<Self> {
        let (sender, next) = (Sender::new()?, 0);
        Ok(Self { sender, next })
    }

    /// Sends SYNs to a port and returns what each has cost, in nanoseconds.
    fn send(&mut self, count: usize, port: u16) -> anyhow::Result<f64> {
        self.send_to(count, SocketAddrV4::new([127, 0, 0, 1].into(), port))
    }

    /// The same to an address that nobody has, where the kernel drops it.
    fn send_nowhere(&mut self, count: usize) -> anyhow::Result<f64> {
        self.send_to(count, SocketAddrV4::new(NOWHERE, PORT))
    }

    fn send_to(&mut self, count: usize, to: SocketAddrV4) -> anyhow::Result<f64> {
        let mut packets = Vec::with_capacity(count);
        for _ in 0..count {
            packets.push(build(stranger(self.next), to, Flags::Syn)?);
            self.next += 1;
        }
        let start = processor_time();
        for packet in &packets {
            self.sender.send_built(packet, to)?;
        }
        Ok((processor_time() - start) * 1e9 / count as f64)
    }
}
