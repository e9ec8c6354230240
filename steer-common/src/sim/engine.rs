//! The events of one run.

use core::cmp::Reverse;
use std::{
    collections::{BinaryHeap, VecDeque},
    vec,
    vec::Vec,
};

use crate::policy::Selection;

use super::{
    discipline::Discipline,
    group::{Group, Job, Part},
    workload::Connection,
};

/// What a run depends on besides its connections. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Setting {
    /// How many workers there are.
    pub workers: usize,
    /// How connections are given to the workers.
    pub discipline: Discipline,
    /// How long a worker takes for any request on top of its service time.
    pub overhead: u64,
    /// How long a handshake is in flight.
    pub rtt: u64,
    /// How many clients there are, each with an address of its own.
    pub clients: u32,
    /// How many workers stop in the middle of the run.
    pub stuck: usize,
    /// For how long these workers stop.
    pub stuck_for: u64,
    /// How many workers take longer for everything.
    pub slow: usize,
    /// How many times as long these workers take.
    pub slow_by: f64,
    /// A worker isn't selected after this much time without progress; 0 for never.
    pub eject_after: u64,
    /// What the policies don't know in this run.
    pub off: Vec<Part>,
    /// Connections before the one with this index only warm the workers up.
    pub measured_from: u32,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How long the first requests waited for their workers, in nanoseconds, without the warm-up.
    pub first: Vec<u64>,
    /// How long the first request of each connection waited, in nanoseconds, in the order of the
    /// connections.
    pub course: Vec<u64>,
    /// How long further requests waited for their workers, in nanoseconds, without the warm-up.
    pub further: Vec<u64>,
    /// The most connections that one worker had open at once.
    pub most_open: u32,
    /// How many connections were open at once, on average over the arrivals, divided by the number
    /// of workers.
    pub mean_open: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The SYN of a connection.
    Syn(u32),
    /// The first request of a connection, which comes right after the handshake.
    Established(u32),
    /// The next request of a connection.
    Request(u32),
    /// A worker has answered.
    Answered(u32),
    /// A worker stops.
    Stop(u32),
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    worker: u32,
    answered: u32,
}

struct Engine<'a> {
    setting: Setting,
    connections: &'a [Connection],
    progress: Vec<Progress>,
    group: Group,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    /// The queue of requests, for the discipline that has one queue for all workers.
    central: VecDeque<Job>,
    outcome: Outcome,
    open: u64,
    open_sum: u64,
}

/// Simulates one run.
pub fn simulate(setting: Setting, connections: &[Connection]) -> Outcome {
    let mut engine = Engine {
        connections,
        progress: vec![Progress::default(); connections.len()],
        group: Group::new(setting.workers, &setting.off, setting.eject_after),
        events: BinaryHeap::new(),
        scheduled: 0,
        central: VecDeque::new(),
        outcome: Outcome {
            course: vec![0; connections.len()],
            ..Outcome::default()
        },
        open: 0,
        open_sum: 0,
        setting,
    };
    if let Some(middle) = connections.get(connections.len() / 2) {
        for worker in 0..engine.setting.stuck.min(engine.setting.workers) {
            engine.schedule(middle.at, Event::Stop(worker as u32));
        }
    }
    if let Some(first) = connections.first() {
        engine.schedule(first.at, Event::Syn(0));
    }
    while let Some(Reverse((time, _, event))) = engine.events.pop() {
        engine.group.now = time;
        engine.handle(event);
    }
    engine.outcome.mean_open =
        engine.open_sum as f64 / (connections.len().max(1) * engine.setting.workers) as f64;
    engine.outcome
}

impl Engine<'_> {
    fn schedule(&mut self, time: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((time, self.scheduled, event)));
    }

    fn handle(&mut self, event: Event) {
        let now = self.group.now;
        match event {
            Event::Syn(connection) => {
                if let Some(next) = self.connections.get(connection as usize + 1) {
                    self.schedule(next.at, Event::Syn(connection + 1));
                }
                let worker = self.select(connection);
                self.progress[connection as usize].worker = worker;
                self.group.servers[worker as usize].handshakes += 1;
                self.open += 1;
                self.open_sum += self.open;
                self.schedule(now + self.setting.rtt, Event::Established(connection));
            }
            Event::Established(connection) => {
                let server = self.server(connection);
                server.handshakes -= 1;
                server.active += 1;
                if server.accept_queue == 0 {
                    server.progress = now;
                }
                server.accept_queue += 1;
                let active = server.active;
                self.outcome.most_open = self.outcome.most_open.max(active);
                self.request(connection);
            }
            Event::Request(connection) => self.request(connection),
            Event::Answered(worker) => self.answered(worker),
            Event::Stop(worker) => {
                let stop = Job {
                    connection: None,
                    since: now,
                };
                if self.group.servers[worker as usize].job.is_none() {
                    self.begin(worker, stop);
                } else {
                    self.group.servers[worker as usize].queue.push_front(stop);
                }
            }
        }
    }

    fn server(&mut self, connection: u32) -> &mut super::group::Server {
        &mut self.group.servers[self.progress[connection as usize].worker as usize]
    }

    fn select(&mut self, connection: u32) -> u32 {
        // Any order of clients will do if each client comes back now and then.
        let client = connection.wrapping_mul(0x9e37_79b1) % self.setting.clients;
        self.group.look(client);
        if let Some(policy) = self.setting.discipline.policy()
            && let Selection::Slot(slot) = policy.select(&self.group, |_| true)
        {
            return slot;
        }
        if self.setting.discipline == Discipline::Jsq {
            return self.shortest() as u32;
        }
        self.group.below(self.setting.workers) as u32
    }

    fn shortest(&self) -> usize {
        let start = self.group.below(self.setting.workers);
        let mut best = start;
        for step in 1..self.setting.workers {
            let worker = (start + step) % self.setting.workers;
            if self.group.servers[worker].length() < self.group.servers[best].length() {
                best = worker;
            }
        }
        best
    }

    fn request(&mut self, connection: u32) {
        let job = Job {
            connection: Some(connection),
            since: self.group.now,
        };
        if self.setting.discipline == Discipline::Central {
            let free = self
                .group
                .servers
                .iter()
                .position(|server| server.job.is_none());
            match free {
                Some(worker) => self.begin(worker as u32, job),
                None => self.central.push_back(job),
            }
            return;
        }
        let worker = self.progress[connection as usize].worker;
        let server = &mut self.group.servers[worker as usize];
        if server.job.is_none() {
            self.begin(worker, job);
        } else {
            server.queue.push_back(job);
        }
    }

    fn begin(&mut self, worker: u32, job: Job) {
        let now = self.group.now;
        // The kernel sees the end of a job when the next job begins, or when the job's connection
        // is closed.
        self.group.learn(worker);
        let server = &mut self.group.servers[worker as usize];
        server.job = Some(job);
        server.began = now;
        let Some(connection) = job.connection else {
            self.schedule(now + self.setting.stuck_for, Event::Answered(worker));
            return;
        };
        let index = self.progress[connection as usize].answered;
        if index == 0 {
            let owner = self.server(connection);
            owner.accept_queue -= 1;
            owner.progress = now;
        }
        if connection >= self.setting.measured_from {
            let waits = if index == 0 {
                &mut self.outcome.first
            } else {
                &mut self.outcome.further
            };
            waits.push(now - job.since);
        }
        if index == 0 {
            self.outcome.course[connection as usize] = now - job.since;
        }
        let request = self.connections[connection as usize].requests[index as usize];
        let mut takes = request.service + self.setting.overhead;
        if (worker as usize) < self.setting.slow {
            takes = (takes as f64 * self.setting.slow_by) as u64;
        }
        let end = now + takes;
        self.schedule(end, Event::Answered(worker));
    }

    fn answered(&mut self, worker: u32) {
        let now = self.group.now;
        let Some(job) = self.group.servers[worker as usize].job else {
            return;
        };
        let mut closes = false;
        if let Some(connection) = job.connection {
            let progress = &mut self.progress[connection as usize];
            progress.answered += 1;
            let requests = &self.connections[connection as usize].requests;
            if let Some(next) = requests.get(progress.answered as usize) {
                self.schedule(now + next.think, Event::Request(connection));
            } else {
                self.server(connection).active -= 1;
                self.open -= 1;
                closes = true;
            }
        }
        let server = &mut self.group.servers[worker as usize];
        server.ended = Some(now - server.began);
        if closes {
            self.group.learn(worker);
        }
        let server = &mut self.group.servers[worker as usize];
        let next = server
            .queue
            .pop_front()
            .or_else(|| self.central.pop_front());
        if let Some(job) = next {
            self.begin(worker, job);
        } else {
            server.job = None;
        }
    }
}
