//! A client that opens several new connections at the same time, and says what became of each.

use std::{
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// How many headers an answer may have.
const MAX_HEADERS: usize = 32;

/// What is asked of a server, and for how long the client waits for an answer.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address and port to connect to.
    pub address: SocketAddr,
    /// Path and query.
    pub path: String,
    /// When a connection without a whole answer counts as hung.
    pub patience: Duration,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by the worker with this pid.
    Served(u32),
    /// Reset, before or after it was established.
    Reset,
    /// Nobody listened.
    Refused,
    /// Neither answered nor ended in time.
    Hung,
    /// Anything else: closed without an answer, no HTTP, or no pid in the answer.
    Broken(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served(pid) => write!(f, "served by pid {pid}"),
            Self::Reset => f.write_str("reset"),
            Self::Refused => f.write_str("refused"),
            Self::Hung => f.write_str("hung"),
            Self::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

/// One connection of a volley.
#[derive(Clone, Debug)]
pub struct Shot {
    /// What became of the connection.
    pub outcome: Outcome,
    /// The time from the start of the volley until the worker had closed the connection.
    pub took: Duration,
}

/// Opens `count` connections at once, sends a request on each, and reads until the worker has
/// closed the connection. In a runtime of one thread, all SYNs leave before the client waits for
/// anything.
pub async fn volley(target: &Target, count: usize) -> Vec<Shot> {
    let start = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..count {
        let target = target.clone();
        connections.spawn(async move {
            let outcome = match timeout(target.patience, exchange(&target)).await {
                Ok(Ok(answer)) => read_answer(&answer),
                Ok(Err(error)) => failure(&error),
                Err(_) => Outcome::Hung,
            };
            Shot {
                outcome,
                took: start.elapsed(),
            }
        });
    }
    connections.join_all().await
}

/// Like [`volley`], for a caller without a runtime.
///
/// # Errors
/// If the runtime can't be set up.
pub fn fire(target: &Target, count: usize) -> io::Result<Vec<Shot>> {
    Ok(runtime()?.block_on(volley(target, count)))
}

/// Opens `count` connections one after the other, each when the one before it has been closed.
///
/// # Errors
/// If the runtime can't be set up.
pub fn one_by_one(target: &Target, count: usize) -> io::Result<Vec<Shot>> {
    runtime()?.block_on(async {
        let mut shots = Vec::with_capacity(count);
        for _ in 0..count {
            shots.extend(volley(target, 1).await);
        }
        Ok(shots)
    })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn exchange(target: &Target) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(target.address).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        target.path, target.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // This reads beyond the end of the answer, to the end of the connection: by then the worker
    // has closed it.
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn failure(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Outcome::Refused,
        Some(libc::ECONNRESET | libc::EPIPE) => Outcome::Reset,
        Some(libc::ETIMEDOUT) => Outcome::Hung,
        _ => Outcome::Broken(error.to_string()),
    }
}

/// Reads the worker's pid from an answer that ends with its connection.
pub fn read_answer(answer: &[u8]) -> Outcome {
    if answer.is_empty() {
        return Outcome::Broken("closed without an answer".to_owned());
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Outcome::Broken("closed in mid-answer".to_owned()),
        Err(error) => return Outcome::Broken(format!("not HTTP: {error}")),
    };
    if response.code != Some(200) {
        return Outcome::Broken(format!("status {}", response.code.unwrap_or_default()));
    }
    let body = String::from_utf8_lossy(&answer[head..]);
    match body.trim().parse() {
        Ok(pid) => Outcome::Served(pid),
        Err(_) => Outcome::Broken(format!("no pid in {:?}", body.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let served = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n123\n";
        assert_eq!(read_answer(served), Outcome::Served(123));
        for (answer, why) in [
            (&b""[..], "closed without an answer"),
            (b"HTTP/1.1 200 OK\r\ncont", "closed in mid-answer"),
            (
                b"220 smtp.example\r\n\r\n",
                "not HTTP: invalid HTTP version",
            ),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", "no pid in \"hello\""),
        ] {
            assert_eq!(read_answer(answer), Outcome::Broken(why.to_owned()));
        }
    }

    #[test]
    fn nobody_listening_is_refused() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let target = Target {
            address,
            path: "/".to_owned(),
            patience: Duration::from_secs(1),
        };
        let shots = fire(&target, 2).expect("a runtime");
        assert_eq!(shots.len(), 2);
        for shot in shots {
            assert_eq!(shot.outcome, Outcome::Refused);
        }
    }
}
