//! A worker that blocks in accept().

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use socket2::{SockRef, Socket};
use steer_tests::{
    churn::now,
    stateful::words::{Order, RETIRED, SERVING, about},
};

use crate::{
    orders, say,
    serve::{accept, announce_at, serve},
};

/// Serves the first listener until stdin's end.
pub(crate) fn run(listeners: Vec<(u32, Socket)>) -> anyhow::Result<()> {
    let (mark, listener) = listeners.into_iter().next().context("no listener")?;
    let listener = Arc::new(TcpListener::from(listener));
    // When it was told to, right before.
    let retires = Arc::new(OnceLock::new());
    let worker = {
        let (listener, retires) = (listener.clone(), retires.clone());
        thread::spawn(move || accept_loop(mark, &listener, &retires))
    };
    // What is held stays open until the process ends.
    let mut held = Vec::new();
    let mut worker = Some((worker, listener));
    orders(|order| {
        if order == Order::Retire
            && let Some((worker, listener)) = worker.take()
        {
            retires.get_or_init(now);
            // It gets the thread out of accept().
            SockRef::from(&*listener).shutdown(Shutdown::Read)?;
            drop(listener);
            let ended = worker.join();
            held = ended.map_err(|_panic| anyhow::anyhow!("the worker panicked"))??;
            say(&about(RETIRED, mark))?;
        }
        Ok(())
    })
}

/// Returns what is still open once the listener is shut down.
fn accept_loop(
    mark: u32,
    listener: &TcpListener,
    retires: &OnceLock<Duration>,
) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    say(&about(SERVING, mark))?;
    loop {
        match (accept(|| listener.accept()), retires.get()) {
            (Ok(Some(stream)), _) => {
                held.retain(is_open);
                held.extend(serve(stream, mark));
            }
            (Ok(None), _) => {}
            (Err(_), Some(&since)) => {
                announce_at("drained", since)?;
                announce_at("closed", now())?;
                return Ok(held);
            }
            (Err(error), None) => return Err(error).context("failed to accept"),
        }
    }
}

/// Whether the client has not closed the connection.
fn is_open(stream: &TcpStream) -> bool {
    let is_silent = stream
        .set_nonblocking(true)
        .and_then(|()| stream.peek(&mut [0]));
    is_silent.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
