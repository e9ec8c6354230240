//! The simulated workers, and what the policies see of them.

use core::cell::Cell;
use std::{borrow::ToOwned as _, collections::VecDeque, vec, vec::Vec};

use crate::{
    learn::{self, WORDS},
    limits::MAX_SLOTS,
    policy::Direct,
    slot::inverse_weight,
    view::{Handle, Loop, View, Worker},
};
use fastrand::Rng;

/// A signal that a policy goes by, and that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What event loops do. Without it only open connections and handshakes are known.
    Loops,
    /// When the job in hand began. Without it each job in hand has a mean job left.
    Age,
    /// How long jobs take. Without it nothing is ever learned.
    Learning,
    /// Which connections the worker has not read from.
    Fresh,
    /// On which other connections a request waits.
    Ready,
}

impl Part {
    /// Every signal.
    pub const ALL: [Self; 5] = [
        Self::Loops,
        Self::Age,
        Self::Learning,
        Self::Fresh,
        Self::Ready,
    ];

    /// The signal's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loops => "loops",
            Self::Age => "age",
            Self::Learning => "learning",
            Self::Fresh => "fresh",
            Self::Ready => "ready",
        }
    }
}

/// A request that waits for a worker, or that a worker is at work on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// Index of the connection. None for a job that is no request and only makes the worker stuck.
    pub(super) connection: Option<u32>,
    /// When the request came.
    pub(super) since: u64,
}

/// One worker: an event loop that serves one request at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    /// What the worker is at work on.
    pub(super) job: Option<Job>,
    /// What waits for the worker, in order.
    pub(super) queue: VecDeque<Job>,
    /// How many of the jobs in the queue are new connections, which wait in the worker's accept
    /// queue.
    pub(super) accept_queue: u32,
    /// How many connections the worker has open.
    pub(super) active: u32,
    pub(super) handshakes: u32,
    /// When the worker began what it is at work on.
    pub(super) began: u64,
    /// How long the worker's last job took, until the group has learned from that.
    pub(super) ended: Option<u64>,
    /// When the worker last accepted a connection, or last had none to accept.
    pub(super) progress: u64,
    pub(super) ejected: bool,
}

impl Server {
    /// How many requests the worker has to answer, with those of handshakes in flight.
    pub(super) fn length(&self) -> usize {
        self.queue.len() + self.handshakes as usize + usize::from(self.job.is_some())
    }
}

/// All workers, at one moment.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) servers: Vec<Server>,
    pub(super) now: u64,
    pub(super) eject_after: u64,
    off: Vec<Part>,
    /// What the group has learned of how long its jobs take.
    learned: [Cell<u64>; WORDS],
    cursor: Cell<u64>,
    rng: Cell<u64>,
    client: u32,
}

impl Group {
    pub(super) fn new(workers: usize, off: &[Part], eject_after: u64) -> Self {
        Self {
            servers: vec![Server::default(); workers],
            now: 0,
            eject_after,
            off: off.to_owned(),
            learned: [const { Cell::new(0) }; WORDS],
            cursor: Cell::new(0),
            rng: Cell::new(workers as u64),
            client: 0,
        }
    }

    fn is_on(&self, part: Part) -> bool {
        !self.off.contains(&part)
    }

    /// Learns from the last job of a worker, if that job has ended.
    pub(super) fn learn(&mut self, worker: u32) {
        let ended = self.servers[worker as usize].ended.take();
        if let Some(duration) = ended
            && self.is_on(Part::Learning)
        {
            learn::learn(&self.learned, duration);
        }
    }

    /// Makes this the view of a selection for this client, and ejects workers that don't accept,
    /// at most half of the group.
    pub(super) fn look(&mut self, client: u32) {
        self.client = client;
        if self.eject_after == 0 {
            return;
        }
        let most = self.servers.len() / 2;
        let mut ejected = 0;
        for server in &mut self.servers {
            server.ejected = ejected < most
                && server.accept_queue > 0
                && self.now - server.progress >= self.eject_after;
            ejected += usize::from(server.ejected);
        }
    }

    /// A random number below `limit`.
    pub(super) fn below(&self, limit: usize) -> usize {
        self.with_rng(|rng| rng.usize(..limit))
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        let mut rng = Rng::with_seed(self.rng.get());
        let drawn = draw(&mut rng);
        self.rng.set(rng.get_seed());
        drawn
    }
}

impl View for Group {
    fn slot_mask(&self) -> u32 {
        (self.servers.len() as u32).next_power_of_two() - 1
    }

    fn worker(&self, slot: u32) -> Option<Worker> {
        let server = self.servers.get(slot as usize)?;
        (!server.ejected).then(|| Worker {
            inverse_weight: inverse_weight(1),
            active: server.active,
            handle: Handle {
                slot,
                ..Handle::default()
            },
        })
    }

    fn handshakes(&self, worker: &Worker) -> u32 {
        self.servers[worker.handle.slot as usize].handshakes
    }

    fn event_loop(&self, worker: &Worker) -> Loop {
        if !self.is_on(Part::Loops) {
            return Loop::Unknown;
        }
        let server = &self.servers[worker.handle.slot as usize];
        match server.job {
            Some(_) => Loop::Busy(self.now - server.began),
            None => Loop::Waiting,
        }
    }

    fn fresh(&self, worker: &Worker) -> u32 {
        if self.is_on(Part::Fresh) {
            self.servers[worker.handle.slot as usize].accept_queue
        } else {
            0
        }
    }

    fn ready(&self, worker: &Worker, most: u32) -> u32 {
        if !self.is_on(Part::Ready) {
            return 0;
        }
        let server = &self.servers[worker.handle.slot as usize];
        (server.queue.len() as u32)
            .saturating_sub(server.accept_queue)
            .min(most)
    }

    fn mean(&self) -> u64 {
        learn::mean(&self.learned)
    }

    fn rest(&self, age: u64) -> u64 {
        if self.is_on(Part::Age) {
            learn::rest(&self.learned, age)
        } else {
            self.mean()
        }
    }

    fn ticket(&self) -> u64 {
        let ticket = self.cursor.get();
        self.cursor.set(ticket + 1);
        ticket
    }

    fn turn(&self, ticket: u64) -> Option<u32> {
        let workers = (self.servers.len() as u64).min(u64::from(MAX_SLOTS));
        Some((ticket % workers) as u32)
    }

    fn random(&self) -> u32 {
        self.with_rng(|rng| rng.u32(..))
    }

    fn flow(&self) -> u32 {
        self.random()
    }

    fn client(&self) -> u32 {
        self.client
    }
}

impl Direct for Group {}
