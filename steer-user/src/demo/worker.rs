//! A single-threaded HTTP/1.1 worker: one event loop that accepts every connection at once and
//! answers one request at a time, as Bun, Node and Python's asyncio do.
//!
//! `GET /` answers with the worker's pid. `GET /block?ms=N` first keeps the event loop from
//! running for N milliseconds, asleep, so that a measurement isn't one of the processor.
//! `GET /burn?ms=N` first keeps the processor busy for as long.

use std::{
    convert::Infallible,
    future::poll_fn,
    hint, io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener as AsyncListener, TcpStream},
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};

/// How long a worker that was told to stop waits for clients that say nothing.
const GRACE: Duration = Duration::from_secs(5);

/// The longest that `/block` or `/burn` keeps the event loop, in milliseconds.
const LONGEST_BLOCK: u64 = 60_000;

/// How long accepting pauses if the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves on all of the listeners until SIGTERM. Then stops listening, finishes the connections
/// that it has accepted, and returns. Calls `ready` with the local addresses when connections are
/// accepted.
///
/// # Errors
/// If the event loop can't be set up, if `ready` fails, or if a listener breaks.
///
/// # Panics
/// If it is called from within a tokio runtime.
pub fn serve(
    listeners: Vec<TcpListener>,
    ready: impl FnOnce(&[SocketAddr]) -> io::Result<()>,
) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(listeners, ready))
}

async fn run(
    listeners: Vec<TcpListener>,
    ready: impl FnOnce(&[SocketAddr]) -> io::Result<()>,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listeners = listeners
        .into_iter()
        .map(|listener| {
            listener.set_nonblocking(true)?;
            AsyncListener::from_std(listener)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let addresses = listeners
        .iter()
        .map(AsyncListener::local_addr)
        .collect::<io::Result<Vec<_>>>()?;
    ready(&addresses)?;

    let (stopping, stop) = watch::channel(false);
    loop {
        let stream = select! {
            _ = terminate.recv() => break,
            accepted = accept(&listeners) => match accepted {
                Ok(stream) => stream,
                Err(error) if passes(&error) => {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        tokio::spawn(serve_connection(stream, stop.clone()));
    }
    drop((listeners, stop));
    stopping.send_replace(true);
    // The end of the process cuts off whoever still says nothing after the grace period.
    drop(timeout(GRACE, stopping.closed()).await);
    Ok(())
}

/// Serves a connection until it ends. From `stop` on, serves it only until no request of it is
/// open. hyper by itself would then cut off a connection whose first request is still on its way.
/// So this waits for the first bytes before hyper gets the connection.
async fn serve_connection(stream: TcpStream, mut stop: watch::Receiver<bool>) {
    // If a client breaks its connection off, that is no fault of the worker.
    if stream.peek(&mut [0]).await.is_err() {
        return;
    }
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = pin!(connection);
    select! {
        // Bytes that have come are read before anything else.
        biased;
        ended = connection.as_mut() => return drop(ended),
        stopped = stop.wait_for(|stop| *stop) => drop(stopped),
    }
    connection.as_mut().graceful_shutdown();
    drop(connection.await);
}

/// Waits for the next connection of any of the listeners.
async fn accept(listeners: &[AsyncListener]) -> io::Result<TcpStream> {
    poll_fn(|context| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether a failure to accept passes by itself: the client left, or descriptors ran out.
fn passes(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::ECONNRESET | libc::EMFILE | libc::ENFILE | libc::EINTR)
    )
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri();
    let (status, body) = match (uri.path(), block_time(uri.query())) {
        ("/", _) => (StatusCode::OK, pid_line()),
        ("/block", Some(time)) => {
            // This is the purpose: nothing else happens in this event loop meanwhile.
            std::thread::sleep(time);
            (StatusCode::OK, pid_line())
        }
        ("/burn", Some(time)) => {
            let start = Instant::now();
            while start.elapsed() < time {
                hint::spin_loop();
            }
            (StatusCode::OK, pid_line())
        }
        ("/block" | "/burn", None) => (
            StatusCode::BAD_REQUEST,
            format!("/block?ms=N and /burn?ms=N take 0 to {LONGEST_BLOCK} milliseconds\n"),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "try /, /block?ms=N or /burn?ms=N\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

fn pid_line() -> String {
    format!("{}\n", std::process::id())
}

/// How long `/block` or `/burn` with this query keeps the event loop. None if the query doesn't
/// say so, or says more than [`LONGEST_BLOCK`].
pub fn block_time(query: Option<&str>) -> Option<Duration> {
    let milliseconds = query?.strip_prefix("ms=")?.parse().ok()?;
    (milliseconds <= LONGEST_BLOCK).then(|| Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_takes_milliseconds_within_reason() {
        assert_eq!(block_time(Some("ms=60")), Some(Duration::from_millis(60)));
        assert_eq!(
            block_time(Some("ms=60000")),
            Some(Duration::from_millis(LONGEST_BLOCK))
        );
        for bad in [
            None,
            Some(""),
            Some("ms="),
            Some("ms=-1"),
            Some("ms=60001"),
            Some("s=1"),
        ] {
            assert_eq!(block_time(bad), None, "{bad:?}");
        }
    }
}
