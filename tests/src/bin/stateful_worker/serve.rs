//! What a worker does with a connection, however it waits for one.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process, thread,
    time::Duration,
};

use rustix::thread::gettid;
use steer_tests::{
    churn::{claims, load, now},
    stateful::words::announcing,
};

use crate::say;

/// The longest request.
const REQUEST: usize = 1024;

/// How long a client may take for its request, which it sends at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Announces something of this thread's listener.
pub(crate) fn announce(said: &str) -> io::Result<()> {
    let thread = gettid().as_raw_nonzero().get() as u32;
    say(&announcing(process::id(), thread, said))
}

/// The same with the time.
pub(crate) fn announce_at(what: &str, at: Duration) -> io::Result<()> {
    announce(&format!("{what} {}", at.as_nanos()))
}

/// Accepts and announces it; None where nothing waits any more.
pub(crate) fn accept(
    accept: impl FnOnce() -> io::Result<(TcpStream, SocketAddr)>,
) -> io::Result<Option<TcpStream>> {
    announce(claims::ACCEPTING)?;
    match accept() {
        Ok((stream, client)) => {
            announce(&claims::accepted(client.port(), now()))?;
            Ok(Some(stream))
        }
        Err(error) => {
            announce(claims::NOTHING)?;
            // In the latter case the client has gone.
            let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::ConnectionAborted];
            if kinds.contains(&error.kind()) {
                Ok(None)
            } else {
                Err(error)
            }
        }
    }
}

/// Answers a connection; returns it where it is to stay open. A client that breaks it off is no fault of the
/// worker.
pub(crate) fn serve(mut stream: TcpStream, mark: u32) -> Option<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut request = Vec::new();
    let mut buffer = [0; 256];
    while !request.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut buffer).ok()?;
        request.extend(&buffer[..read]);
        if read == 0 || request.len() > REQUEST {
            return None;
        }
    }
    let line = String::from_utf8_lossy(&request);
    let path = line.strip_prefix("GET /")?.split(' ').next()?;
    let held = path == "hold";
    if !held {
        thread::sleep(Duration::from_millis(path.parse().ok()?));
    }
    stream.write_all(load::answer(mark).as_bytes()).ok()?;
    held.then_some(stream)
}
