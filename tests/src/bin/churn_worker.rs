//! A worker for tests that have workers come and go: one event loop, an answer that tells which
//! worker gave it, and an account of when it listened, what it accepted, and when it stopped.
//!
//! SIGTERM has it accept all that waits before it closes its listener, as a worker would that wants
//! to lose as little as it can by itself. What is established after its last look is lost all the
//! same, unless it is migrated.

use std::{
    future::poll_fn,
    io::{self, Write as _},
    net::SocketAddr,
    task::Poll,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use socket2::Socket;
use steer_tests::churn::{claims, load, mark, now};
use steer_user::sys::listening::{ListenOptions, bind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    select,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// The limit of the accept queue.
const BACKLOG: i32 = 512;

/// The longest request.
const REQUEST: usize = 1024;

/// Serves `/N` after N milliseconds in which nothing else happens, until SIGTERM.
#[derive(Parser)]
struct Args {
    /// Address and port to listen on
    address: SocketAddr,
    /// The mark of this worker
    mark: u32,
    /// On SIGTERM, close the listener at once, whatever waits there
    #[arg(long)]
    abrupt: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = ListenOptions::new(args.address);
    let socket = bind(&options).with_context(|| format!("failed to bind to {}", args.address))?;
    mark::set(&socket, args.mark)?;
    socket.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(socket, &args))
}

async fn run(socket: Socket, args: &Args) -> anyhow::Result<()> {
    let mark = args.mark;
    let mut terminate = signal(SignalKind::terminate())?;
    let listens = now();
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    say("listening", listens)?;

    let mut connections = JoinSet::new();
    loop {
        let accept = poll_fn(|context| {
            announced(|| match listener.poll_accept(context) {
                Poll::Ready(result) => result.map(Some),
                Poll::Pending => Ok(None),
            })
            .map_or(Poll::Pending, Poll::Ready)
        });
        select! {
            _ = terminate.recv() => break,
            stream = accept => drop(connections.spawn(serve(stream?, mark))),
        }
        while connections.try_join_next().is_some() {}
    }

    // Past the event loop, which may not know yet what waits.
    let listener = listener.into_std()?;
    let drained = loop {
        let before = now();
        if args.abrupt {
            break before;
        }
        let accepted = announced(|| match listener.accept() {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        });
        let Some(stream) = accepted else {
            break before;
        };
        let stream = stream?;
        stream.set_nonblocking(true)?;
        connections.spawn(serve(TcpStream::from_std(stream)?, mark));
    };
    drop(listener);
    let closed = now();
    while connections.join_next().await.is_some() {}
    say("drained", drained)?;
    say("closed", closed)
}

/// Accepts, if anything waits, and announces it as [`claims`] says.
fn announced<S>(
    accept: impl FnOnce() -> io::Result<Option<(S, SocketAddr)>>,
) -> Option<io::Result<S>> {
    let mut stdout = io::stdout();
    let accepted = writeln!(stdout, "{}", claims::ACCEPTING).and_then(|()| {
        let accepted = accept()?;
        match &accepted {
            Some((_, client)) => {
                writeln!(stdout, "{}", claims::accepted(client.port(), now()))?;
            }
            None => writeln!(stdout, "{}", claims::NOTHING)?,
        }
        Ok(accepted)
    });
    accepted
        .map(|accepted| accepted.map(|(stream, _)| stream))
        .transpose()
}

/// A client that breaks its connection off is no fault of the worker.
async fn serve(mut stream: TcpStream, mark: u32) -> Option<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let read = stream.read_buf(&mut request).await.ok()?;
        if read == 0 || request.len() > REQUEST {
            return None;
        }
    }
    let line = String::from_utf8_lossy(&request);
    let milliseconds = line
        .strip_prefix("GET /")?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    // The point of it: nothing else happens in this event loop meanwhile.
    std::thread::sleep(Duration::from_millis(milliseconds));
    stream.write_all(load::answer(mark).as_bytes()).await.ok()
}

fn say(what: &str, when: Duration) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{what} {}", when.as_nanos())?)
}
