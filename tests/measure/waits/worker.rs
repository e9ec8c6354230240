//! A worker: one event loop that answers one request at a time.
//!
//! It blocks asleep, so that eight of them need no more than a part of one processor, and what is
//! measured is waiting for a worker and not for a processor. It takes one event from the kernel at
//! a time: the ready list then is a queue in which the listener has its place like any connection.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use anyhow::Context as _;
use rustix::{
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
};
use steer_user::sys::listening::{ListenOptions, listen};

use crate::{
    clock,
    wire::{Answer, LENGTH, Request},
};

/// The event of the listener; connections count up from 1.
const LISTENER: u64 = 0;

struct Worker {
    listener: TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, TcpStream>,
    accepted: u64,
}

/// How a connection is left.
enum After {
    /// Another request may come.
    Open,
    /// There was no request yet.
    Nothing,
    /// It was the last request, or the client left.
    Closed,
}

/// Serves until it is killed. Prints a line once it listens.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    clock::exact_timers()?;
    // Without TCP_DEFER_ACCEPT: a connection wakes the worker, not its first byte.
    let listener = listen(&ListenOptions::new(address))
        .with_context(|| format!("failed to listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut worker = Worker {
        listener,
        epoll,
        connections: HashMap::new(),
        accepted: LISTENER,
    };
    writeln!(io::stdout(), "listening on {address}")?;
    loop {
        worker.turn()?;
    }
}

impl Worker {
    /// Waits for one event and handles it.
    fn turn(&mut self) -> anyhow::Result<()> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(LISTENER),
        }];
        match epoll::wait(&self.epoll, &mut events, None) {
            Err(Errno::INTR) | Ok(0) => return Ok(()),
            result => result.context("failed to wait for an event")?,
        };
        let [event] = events;
        let key = event.data.u64();
        if key == LISTENER {
            return self.accept();
        }
        if let Some(stream) = self.connections.get_mut(&key)
            && matches!(answer(stream)?, After::Closed)
        {
            self.connections.remove(&key);
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        let mut stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => return Ok(()),
            Err(error) => return Err(error).context("failed to accept a connection"),
        };
        stream.set_nonblocking(true)?;
        // A worker that was busy finds the request there already, in the connection's own turn.
        if matches!(answer(&mut stream)?, After::Closed) {
            return Ok(());
        }
        self.accepted += 1;
        let key = EventData::new_u64(self.accepted);
        epoll::add(&self.epoll, &stream, key, EventFlags::IN)
            .context("failed to poll a connection")?;
        self.connections.insert(self.accepted, stream);
        Ok(())
    }
}

/// Answers a request, if there is one.
fn answer(stream: &mut TcpStream) -> anyhow::Result<After> {
    let mut message = [0; LENGTH];
    match stream.read(&mut message) {
        Ok(LENGTH) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(After::Nothing),
        // A client that left, or one that makes no sense, which finds its connection closed.
        Ok(_) | Err(_) => return Ok(After::Closed),
    }
    let began = clock::now();
    let request = Request::from_bytes(message);
    clock::sleep_until(began + request.service)?;
    let answer = Answer {
        pid: std::process::id(),
        began,
    };
    let written = stream.write_all(&answer.to_bytes());
    Ok(if request.last || written.is_err() {
        After::Closed
    } else {
        After::Open
    })
}
