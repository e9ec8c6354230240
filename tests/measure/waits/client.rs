//! The clients: connections that come when they come, however slow the answers are, all of them in
//! one thread that never waits for any in particular.

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr, os::fd::OwnedFd};

use anyhow::Context as _;
use rustix::{
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
};

use crate::{
    arrivals::Arrival,
    clock,
    connection::{Connection, End, News, failure},
    record::{Answered, Run},
    wire::Request,
};

/// How long after the last arrival whoever has no answer counts as hung, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;

/// From the start to the first arrival, in nanoseconds.
const LEAD: u64 = 100_000_000;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// A connection that has not ended.
struct Open {
    connection: Connection,
    /// Which request it is at.
    index: usize,
    sent: u64,
    polled: EventFlags,
}

struct Client<'a> {
    arrivals: &'a [Arrival],
    address: SocketAddr,
    epoll: OwnedFd,
    /// By index among the arrivals.
    open: Vec<Option<Open>>,
    ends: Vec<Option<End>>,
    /// When the next request of a connection is due.
    thinking: BinaryHeap<Reverse<(u64, usize)>>,
    /// Connections that came.
    came: usize,
    /// Connections that have a first answer, or ended without.
    met: usize,
    ended: usize,
    run: Run,
}

/// Makes the connections, and stops when the last of them has its first answer.
pub(crate) fn run(arrivals: &[Arrival], address: SocketAddr) -> anyhow::Result<Run> {
    let mut client = Client {
        arrivals,
        address,
        epoll: epoll::create(CreateFlags::CLOEXEC).context("failed to make an epoll")?,
        open: arrivals.iter().map(|_| None).collect(),
        ends: vec![None; arrivals.len()],
        thinking: BinaryHeap::new(),
        came: 0,
        met: 0,
        ended: 0,
        run: Run::default(),
    };
    let start = clock::now() + LEAD;
    let end = start + arrivals.last().map_or(0, |last| last.at) + PATIENCE;
    while client.ended < arrivals.len() && clock::now() < end {
        client.turn(start, end)?;
    }
    client.run.ends = client
        .ends
        .into_iter()
        .map(|end| end.unwrap_or(End::Hung))
        .collect();
    Ok(client.run)
}

impl Client<'_> {
    fn turn(&mut self, start: u64, end: u64) -> anyhow::Result<()> {
        while let Some(arrival) = self.arrivals.get(self.came) {
            let due = start + arrival.at;
            let now = clock::now();
            if now < due {
                break;
            }
            self.run.late.push(now - due);
            self.came += 1;
            self.connect(self.came - 1)?;
        }
        let over = self.is_over();
        while let Some(Reverse((due, index))) = self.thinking.peek().copied() {
            if !over && clock::now() < due {
                break;
            }
            self.thinking.pop();
            // Whoever broke off while its client was thinking has ended already.
            if over && self.open[index].is_some() {
                self.end(index, End::Cut);
            } else {
                self.ask(index)?;
            }
        }
        let next = self.arrivals.get(self.came).map(|next| start + next.at);
        let next_thought = self.thinking.peek().map(|Reverse((due, _))| *due);
        let until = next.into_iter().chain(next_thought).fold(end, u64::min);
        if self.ended < self.arrivals.len() {
            self.poll(until)?;
        }
        Ok(())
    }

    /// Whether nothing more can be learned of any first request.
    fn is_over(&self) -> bool {
        self.met == self.arrivals.len()
    }

    fn poll(&mut self, until: u64) -> anyhow::Result<()> {
        let none = || Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [(); EVENTS].map(|()| none());
        let timeout = clock::timespec(until.saturating_sub(clock::now()));
        let count = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Err(Errno::INTR) => 0,
            result => result.context("failed to wait for an event")?,
        };
        for event in &events[..count] {
            let index = event.data.u64() as usize;
            if let Some(open) = &mut self.open[index] {
                let news = open.connection.go_on();
                self.handle(index, news)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, index: usize) -> anyhow::Result<()> {
        let sent = clock::now();
        match Connection::open(self.address) {
            Ok(connection) => {
                self.open[index] = Some(Open {
                    connection,
                    index: 0,
                    sent,
                    polled: EventFlags::empty(),
                });
                self.ask(index)
            }
            Err(error) => {
                self.end(index, failure(&error));
                Ok(())
            }
        }
    }

    fn ask(&mut self, index: usize) -> anyhow::Result<()> {
        let requests = &self.arrivals[index].requests;
        let Some(open) = &mut self.open[index] else {
            return Ok(());
        };
        if open.index > 0 {
            open.sent = clock::now();
        }
        let news = open.connection.ask(Request {
            service: requests[open.index].service,
            last: open.index + 1 == requests.len(),
        });
        self.handle(index, news)
    }

    fn handle(&mut self, index: usize, mut news: News) -> anyhow::Result<()> {
        while let Some(open) = &mut self.open[index] {
            let poll = match news {
                News::Stalled => EventFlags::OUT,
                News::Quiet => EventFlags::IN,
                News::Over(end) => {
                    self.end(index, end);
                    return Ok(());
                }
                News::Answer(answer) => {
                    let requests = &self.arrivals[index].requests;
                    self.run.answered.push(Answered {
                        connection: index,
                        first: open.index == 0,
                        sent: open.sent,
                        began: answer.began,
                        service: requests[open.index].service,
                        pid: answer.pid,
                    });
                    self.met += usize::from(open.index == 0);
                    open.index += 1;
                    if open.connection.is_thinking() {
                        let due = clock::now() + requests[open.index].think;
                        self.thinking.push(Reverse((due, index)));
                    }
                    news = open.connection.go_on();
                    continue;
                }
            };
            return open.poll(&self.epoll, index, poll);
        }
        Ok(())
    }

    fn end(&mut self, index: usize, end: End) {
        let open = self.open[index].take();
        if open.is_none_or(|open| open.index == 0) {
            self.met += 1;
        }
        self.ends[index] = Some(end);
        self.ended += 1;
    }
}

impl Open {
    fn poll(&mut self, epoll: &OwnedFd, index: usize, flags: EventFlags) -> anyhow::Result<()> {
        let data = EventData::new_u64(index as u64);
        let stream = self.connection.stream();
        match self.polled {
            polled if polled == flags => Ok(()),
            polled if polled.is_empty() => epoll::add(epoll, stream, data, flags),
            _ => epoll::modify(epoll, stream, data, flags),
        }
        .context("failed to poll a connection")?;
        self.polled = flags;
        Ok(())
    }
}
