//! The simulated workers, and what the policies see of them.

use std::{cell::Cell, collections::VecDeque};

use fastrand::Rng;
use steer_common::{
    learn::Learned,
    limits::MAX_SLOTS,
    slot::inverse_weight,
    view::{Handle, Loop, View, Worker},
};

/// As `least` does it: neighbours in time begin far from one another.
const STRIDE: u64 = 2_654_435_761;

/// Since when a policy takes a worker for busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BusyTime {
    /// Since a selection last saw it waiting: what the kernel program knows.
    Seen,
    /// Since it last waited.
    Waited,
    /// Since the beginning of the request in hand.
    Request,
}

/// A request that waits for a worker, or that it works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Index of the connection; none for a job that is no request and only makes the worker stuck.
    pub(crate) connection: Option<u32>,
    /// When it came.
    pub(crate) since: u64,
}

/// One worker: an event loop that serves one request at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// What it works on.
    pub(crate) job: Option<Job>,
    /// What waits for it, in order.
    pub(crate) queue: VecDeque<Job>,
    /// Of these, new connections, which wait in its accept queue.
    pub(crate) accept_queue: u32,
    /// Open connections.
    pub(crate) active: u32,
    pub(crate) handshakes: u32,
    /// When it began what it works on.
    pub(crate) began: u64,
    /// When it last waited.
    pub(crate) waited: u64,
    /// When its newest connection was born.
    pub(crate) newest: u64,
    /// When a selection last saw it waiting.
    pub(crate) seen_waiting: Cell<u64>,
    /// When it last accepted a connection, or had none to accept.
    pub(crate) progress: u64,
    pub(crate) ejected: bool,
}

impl Server {
    /// Requests that it has to answer, those of handshakes in flight included.
    pub(crate) fn length(&self) -> usize {
        self.queue.len() + self.handshakes as usize + usize::from(self.job.is_some())
    }
}

/// All workers, at one moment.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) servers: Vec<Server>,
    pub(crate) now: u64,
    pub(crate) busy: BusyTime,
    pub(crate) eject_after: u64,
    /// How long its jobs take.
    pub(crate) learned: Learned,
    cursor: Cell<u64>,
    rng: Cell<u64>,
    client: u32,
}

impl Group {
    pub(crate) fn new(workers: usize, busy: BusyTime, eject_after: u64) -> Self {
        Self {
            servers: vec![Server::default(); workers],
            now: 0,
            busy,
            eject_after,
            learned: Learned::NOTHING,
            cursor: Cell::new(0),
            rng: Cell::new(workers as u64),
            client: 0,
        }
    }

    /// Makes the view that of a selection for this client, and ejects who doesn't accept, at most
    /// half of the group.
    pub(crate) fn look(&mut self, client: u32) {
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

    /// The worker that would begin with one more connection first: by the rest of the job that it has in
    /// hand and by what waits for it, as far as the jobs that have ended tell. Ties go round.
    pub(crate) fn soonest(&self) -> Option<u32> {
        let count = self.servers.len() as u64;
        let start = self.ticket().wrapping_mul(STRIDE) % count;
        let places = (0..count).map(|step| ((start + step) % count) as usize);
        let admitted = places.filter(|place| !self.servers[*place].ejected);
        let begins = |place: &usize| {
            let server = &self.servers[*place];
            let in_hand = server.job.map(|_| self.now - server.began);
            let rest = in_hand.map_or(0, |age| self.learned.rest(age));
            let waiting = server.queue.len() as u64 + u64::from(server.handshakes);
            rest + waiting * self.learned.mean()
        };
        admitted.min_by_key(begins).map(|place| place as u32)
    }

    /// A random number below `limit`.
    pub(crate) fn below(&self, limit: usize) -> usize {
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
        let server = &self.servers[worker.handle.slot as usize];
        if server.job.is_none() {
            server.seen_waiting.set(self.now);
            return Loop::Waiting(self.now - server.newest);
        }
        Loop::Busy(
            self.now
                - match self.busy {
                    BusyTime::Seen => server.seen_waiting.get(),
                    BusyTime::Waited => server.waited,
                    BusyTime::Request => server.began,
                },
        )
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
