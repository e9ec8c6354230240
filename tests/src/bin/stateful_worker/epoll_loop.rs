//! A worker with an event loop.

use std::{
    collections::HashMap,
    net::TcpStream,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::mpsc::Receiver,
};

use anyhow::Context as _;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::{SockRef, Socket};
use steer_tests::{
    churn::now,
    stateful::words::{Order, PAUSED, RETIRED, SERVING, about},
};

use crate::{
    BACKLOG, say,
    serve::{accept, announce_at, serve},
};

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// Events that one look takes.
const EVENTS: usize = 16;

/// The event loop.
pub(crate) struct EpollLoop {
    mark: u32,
    listener: Option<std::net::TcpListener>,
    /// Whether it is shut down, which an event of before may not tell.
    paused: bool,
    epoll: OwnedFd,
    wake: OwnedFd,
    orders: Receiver<Order>,
    held: HashMap<u64, TcpStream>,
}

impl EpollLoop {
    /// A worker that polls the listener from now on, and says so.
    pub(crate) fn new(
        mark: u32,
        listener: Socket,
        wake: OwnedFd,
        orders: Receiver<Order>,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        say(&about(SERVING, mark))?;
        Ok(Self {
            mark,
            listener: Some(listener.into()),
            paused: false,
            epoll,
            wake,
            orders,
            held: HashMap::new(),
        })
    }

    /// Serves; returns, where it ends, once it is relieved and has no connection.
    pub(crate) fn run(mut self, ends: bool) -> anyhow::Result<()> {
        loop {
            if ends && self.listener.is_none() && self.held.is_empty() {
                return Ok(());
            }
            let mut events = [Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }; EVENTS];
            let ready = match epoll::wait(&self.epoll, &mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready?,
            };
            for event in &events[..ready] {
                let data = event.data;
                match data.u64() {
                    WAKE => {
                        rustix::io::read(&self.wake, &mut [0; 8])?;
                        while let Ok(order) = self.orders.try_recv() {
                            self.obey(order)?;
                        }
                    }
                    LISTENER => self.accept()?,
                    held => drop(self.held.remove(&held)),
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        let Some(listener) = self.listener.as_ref().filter(|_| !self.paused) else {
            return Ok(());
        };
        let Some(stream) = accept(|| listener.accept()).context("failed to accept")? else {
            return Ok(());
        };
        if let Some(held) = serve(stream, self.mark) {
            let number = held.as_raw_fd() as u64;
            epoll::add(
                &self.epoll,
                &held,
                EventData::new_u64(number),
                EventFlags::IN,
            )?;
            self.held.insert(number, held);
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Retire => {
                announce_at("drained", now())?;
                if let Some(listener) = self.listener.take() {
                    // A process that inherited the descriptor would keep it in there.
                    epoll::delete(&self.epoll, &listener).ok();
                }
                announce_at("closed", now())?;
                say(&about(RETIRED, self.mark))?;
            }
            Order::Pause => {
                let listener = self.listener.as_ref().context("no listener")?;
                announce_at("drained", now())?;
                SockRef::from(listener).shutdown(std::net::Shutdown::Read)?;
                announce_at("paused", now())?;
                epoll::delete(&self.epoll, listener)?;
                self.paused = true;
                say(&about(PAUSED, self.mark))?;
            }
            Order::Again => {
                let listener = self.listener.as_ref().context("no listener")?;
                SockRef::from(listener).listen(BACKLOG)?;
                let data = EventData::new_u64(LISTENER);
                epoll::add(&self.epoll, listener, data, EventFlags::IN)?;
                self.paused = false;
                say(&about(SERVING, self.mark))?;
            }
            Order::Fork | Order::Relieve | Order::Replace => {}
        }
        Ok(())
    }
}
