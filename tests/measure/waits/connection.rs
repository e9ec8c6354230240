//! One connection of the client, which is never waited for.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::{Answer, LENGTH, Request};

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Every request was answered, and then the worker closed it.
    Served,
    /// All that was asked was answered when the run was over, and the client closed it.
    Cut,
    /// Reset, before or after it was established.
    Reset,
    /// Nobody listened.
    Refused,
    /// Neither an answer nor an end.
    Hung,
    /// Anything else, in words.
    Broken(String),
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Room for this request, or its own handshake.
    Sending([u8; LENGTH], bool),
    /// An answer, and whether it is the last.
    Awaiting(bool),
    /// The client's next request.
    Thinking,
    /// The worker's end of it.
    Closing,
}

/// What is new of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing, and it can't send: it is to be polled for that.
    Stalled,
    /// Nothing; it is to be polled for what the worker says.
    Quiet,
    /// An answer.
    Answer(Answer),
    /// It is over.
    Over(End),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    phase: Phase,
}

impl Connection {
    /// Sends a SYN. On loopback the handshake is over when this returns.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        // The worker closes first; a reset in answer leaves no TIME_WAIT behind.
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(Self {
            stream: socket.into(),
            phase: Phase::Thinking,
        })
    }

    /// The socket, to be polled.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether all is answered that was asked.
    pub(crate) fn is_thinking(&self) -> bool {
        self.phase == Phase::Thinking
    }

    /// Asks for something.
    pub(crate) fn ask(&mut self, request: Request) -> News {
        self.phase = Phase::Sending(request.to_bytes(), request.last);
        self.go_on()
    }

    /// Does what can be done without waiting, up to the next thing that its user must know.
    pub(crate) fn go_on(&mut self) -> News {
        if let Phase::Sending(message, last) = self.phase {
            match self.stream.write(&message) {
                Ok(LENGTH) => self.phase = Phase::Awaiting(last),
                Ok(_) => return broken("a request was cut"),
                Err(error) if not_yet(&error) => return News::Stalled,
                Err(error) => return News::Over(failure(&error)),
            }
        }
        let mut message = [0; LENGTH];
        match (self.stream.read(&mut message), self.phase) {
            (Err(error), _) if not_yet(&error) => News::Quiet,
            (Err(error), _) => News::Over(failure(&error)),
            (Ok(0), Phase::Closing) => News::Over(End::Served),
            (Ok(LENGTH), Phase::Awaiting(last)) => {
                self.phase = if last {
                    Phase::Closing
                } else {
                    Phase::Thinking
                };
                News::Answer(Answer::from_bytes(message))
            }
            (Ok(0), _) => broken("closed too early"),
            (Ok(_), _) => broken("no answer to the request"),
        }
    }
}

/// What a failed call says of the connection.
pub(crate) fn failure(error: &io::Error) -> End {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => End::Refused,
        Some(libc::ECONNRESET | libc::EPIPE) => End::Reset,
        Some(libc::ETIMEDOUT) => End::Hung,
        _ => End::Broken(error.to_string()),
    }
}

fn not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}

fn broken(why: &str) -> News {
    News::Over(End::Broken(why.to_owned()))
}
