//! Workers that do nothing but accept and close, and their client, all in the calling thread.
//!
//! Loopback handles every segment within the system call that sends it. In one thread, then, a
//! connection costs what its system calls cost, and no scheduler has a say in it.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use crate::workers::local;
use anyhow::{Context as _, ensure};
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};
use socket2::SockRef;
use steer_user::sys::listening::{ListenOptions, listen};

/// How long a connection may take to arrive, which it has done before its client is told.
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Not at all.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Events that one look takes.
const EVENTS: usize = 64;

/// Listeners of one port, all polled together. steer takes each for a worker.
#[derive(Debug)]
pub struct Server {
    port: u16,
    listeners: Vec<TcpListener>,
    epoll: OwnedFd,
}

/// A connection that is kept alive, with both its ends in this thread.
#[derive(Debug)]
pub struct Kept {
    client: TcpStream,
    worker: TcpStream,
}

/// What a client and a worker send each other.
const MESSAGE: [u8; 100] = [b'x'; 100];

impl Kept {
    /// The client sends a request, the worker reads it and answers, and the client reads that.
    pub fn request(&mut self) -> io::Result<()> {
        let mut read = [0; MESSAGE.len()];
        self.client.write_all(&MESSAGE)?;
        self.worker.read_exact(&mut read)?;
        self.worker.write_all(&MESSAGE)?;
        self.client.read_exact(&mut read)
    }

    /// The same, so often.
    pub fn requests(&mut self, count: usize) -> io::Result<()> {
        (0..count).try_for_each(|_| self.request())
    }
}

/// A connection that a listener had.
#[derive(Debug)]
pub struct Accepted {
    /// The place of its listener in [`Server::cookies`].
    pub listener: usize,
    /// The worker's end.
    pub stream: TcpStream,
    /// The client's address, which a connection that was reset can't tell any more.
    pub client: SocketAddr,
}

impl Server {
    /// Starts that many listeners on 127.0.0.1.
    pub fn start(port: u16, workers: usize) -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("failed to make an epoll")?;
        let mut server = Self {
            port,
            listeners: Vec::new(),
            epoll,
        };
        for _ in 0..workers {
            server.join()?;
        }
        Ok(server)
    }

    /// Adds a listener.
    pub fn join(&mut self) -> anyhow::Result<()> {
        let port = self.port;
        let listener = listen(&ListenOptions::new(local(port)))
            .with_context(|| format!("failed to listen on port {port}"))?;
        listener.set_nonblocking(true)?;
        let index = EventData::new_u64(self.listeners.len() as u64);
        epoll::add(&self.epoll, &listener, index, EventFlags::IN)
            .with_context(|| format!("failed to poll a listener of port {port}"))?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Closes the newest listener.
    pub fn leave(&mut self) {
        self.listeners.pop();
    }

    /// All listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &TcpListener> {
        self.listeners.iter()
    }

    /// One of the listeners.
    pub fn any(&self) -> Option<&TcpListener> {
        self.listeners.first()
    }

    /// The cookie of each listener, by which steer knows it.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn cookies(&self) -> anyhow::Result<Vec<u64>> {
        let cookies = self.listeners.iter().map(|l| SockRef::from(l).cookie());
        cookies
            .collect::<Result<_, _>>()
            .context("failed to read a socket cookie")
    }

    /// Accepts what waits at this moment.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn waiting(&self) -> anyhow::Result<Vec<Accepted>> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; EVENTS];
        let ready = epoll::wait(&self.epoll, &mut events, Some(&AT_ONCE))
            .context("failed to poll the listeners")?;
        let mut accepted = Vec::new();
        for event in &events[..ready] {
            let data = event.data;
            let listener = data.u64() as usize;
            loop {
                match self.listeners[listener].accept() {
                    Ok((stream, client)) => accepted.push(Accepted {
                        listener,
                        stream,
                        client,
                    }),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("failed to accept"),
                }
            }
        }
        Ok(accepted)
    }

    /// Makes that many connections, one after the other.
    pub fn connections(&self, count: usize) -> anyhow::Result<()> {
        (0..count).try_for_each(|_| self.connection())
    }

    /// Connects, accepts and closes.
    ///
    /// The worker closes first, with a FIN; the client answers that with a reset, so that no socket
    /// of either lingers (TIME_WAIT) and the thousandth connection costs what the first one did.
    pub fn connection(&self) -> anyhow::Result<()> {
        let Kept { client, worker } = self.connect()?;
        drop(worker);
        drop(client);
        Ok(())
    }

    /// That many connections, one after the other, with a request each.
    pub fn exchanges(&self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let mut kept = self.connect()?;
            kept.request().context("failed to exchange a request")?;
            let Kept { client, worker } = kept;
            drop(worker);
            drop(client);
        }
        Ok(())
    }

    /// Connects and accepts.
    pub fn connect(&self) -> anyhow::Result<Kept> {
        let client = TcpStream::connect(local(self.port)).context("failed to connect")?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }];
        let ready = epoll::wait(&self.epoll, &mut events, Some(&PATIENCE))
            .context("failed to wait for a connection")?;
        ensure!(ready == 1, "no worker of port {} got one", self.port);
        let [event] = events;
        let (worker, _) = self.listeners[event.data.u64() as usize]
            .accept()
            .context("failed to accept a connection")?;
        Ok(Kept { client, worker })
    }
}
