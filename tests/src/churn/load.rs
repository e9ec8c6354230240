//! Connections at a constant rate, each with its whole story. The rate doesn't wait for answers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{interval, timeout},
};

use super::{mark, now};
use crate::patience::patience;

/// When a connection without a whole answer counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is opened.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections a second.
    pub rate: u32,
    /// Every so many of them ask for a long answer, all others for a short one.
    pub long_every: usize,
    /// For how long a long one keeps its worker from anything else, in milliseconds.
    pub long: u32,
    /// The same of a short one.
    pub short: u32,
    /// When one without a whole answer counts as hung.
    pub within: Duration,
}

impl Plan {
    /// The usual one at this rate.
    pub const fn at(rate: u32) -> Self {
        Self {
            rate,
            long_every: 10,
            long: 20,
            short: 2,
            within: PATIENCE,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the whole answer of the worker that the handshake was with, or of any where listeners
    /// have no marks.
    Served,
    /// Reset.
    Reset,
    /// Closed in good order without the whole answer, as the kernel does for a killed process that
    /// had read the request.
    Cut,
    /// Answered by the worker with this mark, which isn't the one that it was established with.
    Moved(u32),
    /// Nobody listened.
    Refused,
    /// Neither a whole answer nor an end.
    Hung,
    /// Anything else.
    Broken(String),
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The client's port.
    pub port: u16,
    /// When it was opened.
    pub opened: Duration,
    /// When the client knew that it was established; none where it was reset before.
    pub connected: Option<Duration>,
    /// When it ended.
    pub ended: Duration,
    /// The mark of the worker that it was established with; none where it never was.
    pub worker: Option<u32>,
    /// How it ended.
    pub end: End,
}

/// All that was opened.
#[derive(Clone, Debug)]
pub struct Run {
    /// Connections that were opened, counted before anything is known of them.
    pub sent: usize,
    /// What is known of them.
    pub attempts: Vec<Attempt>,
}

/// A running load. It ends, unheard, with the process.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    pause: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Run>>,
}

impl Load {
    /// Opens `rate` connections a second from now on, in the namespaces of the calling thread.
    pub fn start(address: SocketAddr, rate: u32) -> Self {
        Self::start_plan(address, Plan::at(rate))
    }

    /// The same with more to say.
    pub fn start_plan(address: SocketAddr, plan: Plan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Arc::new(AtomicBool::new(false));
        let (stopped, paused) = (Arc::clone(&stop), Arc::clone(&pause));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(run(address, plan, &stopped, &paused)))
        });
        Self {
            stop,
            pause,
            thread,
        }
    }

    /// Opens no connections for a while, or does again. Those that are open go on.
    pub fn pause(&self, pause: bool) {
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Opens no more and waits for the end of all that were opened.
    ///
    /// # Errors
    /// When the load could not be set up.
    pub fn finish(self) -> anyhow::Result<Run> {
        self.stop.store(true, Ordering::Relaxed);
        let run = self.thread.join();
        run.map_err(|_panic| anyhow!("the load panicked"))?
            .context("failed to set up the load")
    }
}

async fn run(address: SocketAddr, plan: Plan, stopped: &AtomicBool, paused: &AtomicBool) -> Run {
    let mut ticks = interval(Duration::from_secs(1) / plan.rate);
    let mut connections = JoinSet::new();
    let mut sent = 0;
    let mut attempts = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        ticks.tick().await;
        if !paused.load(Ordering::Relaxed) {
            sent += 1;
            let is_long = sent % plan.long_every == 0;
            let work = if is_long { plan.long } else { plan.short };
            connections.spawn(attempt(address, work, plan.within));
        }
        while let Some(attempt) = connections.try_join_next() {
            // One whose task failed is missing from then on, and noticed by its absence.
            attempts.extend(attempt.ok());
        }
    }
    while let Some(attempt) = connections.join_next().await {
        attempts.extend(attempt.ok());
    }
    Run { sent, attempts }
}

async fn attempt(address: SocketAddr, work: u32, within: Duration) -> Attempt {
    let mut attempt = Attempt {
        port: 0,
        opened: now(),
        connected: None,
        ended: Duration::ZERO,
        worker: None,
        end: End::Hung,
    };
    let exchanged = timeout(patience(within), exchange(address, work, &mut attempt)).await;
    attempt.ended = now();
    attempt.end = match exchanged {
        Ok(Ok(answer)) => judge(&answer, attempt.worker),
        Ok(Err(error)) => failure(&error),
        Err(_) => End::Hung,
    };
    attempt
}

async fn exchange(address: SocketAddr, work: u32, attempt: &mut Attempt) -> io::Result<Vec<u8>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let local = socket.local_addr()?.as_socket();
    attempt.port = local.map_or(0, |address| address.port());
    // Kept where connecting fails: one that was reset at once has been established too.
    let mut stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    attempt.worker = mark::read(&stream)?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    attempt.connected = Some(now());
    let request = format!("GET /{work} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// How every answer begins.
const STATUS: &str = "HTTP/1.1 200 OK\r\n";

/// The answer of worker `mark` to any request. It tells its length, so that a part of it is never
/// taken for the whole.
pub fn answer(mark: u32) -> String {
    let body = format!("worker {mark}\n");
    let length = body.len();
    format!("{STATUS}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn judge(received: &[u8], worker: Option<u32>) -> End {
    let received = String::from_utf8_lossy(received);
    match answering(&received) {
        Some(answering) if worker.is_none_or(|worker| worker == answering) => End::Served,
        Some(answering) => End::Moved(answering),
        None if received.starts_with(STATUS) || STATUS.starts_with(&*received) => End::Cut,
        None => End::Broken(format!("worker {worker:?} answered {received:?}")),
    }
}

/// The worker whose whole answer this is.
pub fn answering_of(received: &[u8]) -> Option<u32> {
    answering(&String::from_utf8_lossy(received))
}

/// The worker whose whole answer this is, however its server writes headers: the last word of it.
fn answering(received: &str) -> Option<u32> {
    let (head, body) = received.strip_prefix(STATUS)?.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    if length? != body.len() {
        return None;
    }
    body.trim_end().rsplit(' ').next()?.parse().ok()
}

fn failure(error: &io::Error) -> End {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => End::Refused,
        Some(libc::ECONNRESET | libc::EPIPE) => End::Reset,
        Some(libc::ETIMEDOUT) => End::Hung,
        _ => End::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_counts_and_whose_it_is_is_told() {
        let whole = answer(7);
        assert_eq!(judge(whole.as_bytes(), Some(7)), End::Served);
        for length in 0..whole.len() {
            assert_eq!(judge(&whole.as_bytes()[..length], Some(7)), End::Cut);
        }
        let other = answer(8);
        assert_eq!(judge(other.as_bytes(), Some(7)), End::Moved(8));
        let bun = "HTTP/1.1 200 OK\r\nDate: x\r\ncontent-length: 2\r\n\r\n8\n";
        assert_eq!(judge(bun.as_bytes(), None), End::Served);
        assert_eq!(judge(&bun.as_bytes()[..bun.len() - 1], None), End::Cut);
        let rubbish = judge(b"HTTP/1.1 500 Oops\r\n\r\nworker 8\n", Some(7));
        assert!(matches!(rubbish, End::Broken(_)), "{rubbish:?}");
    }
}
