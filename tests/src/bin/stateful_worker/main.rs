//! A unit of workers of the random test: `steer_tests::stateful::words` says what it is told and says.

mod accepting;
mod epoll_loop;
mod master;
mod serve;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    process,
    sync::mpsc::{Sender, channel},
    thread,
};

use anyhow::Context as _;
use clap::Parser;
use rustix::event::{EventfdFlags, eventfd};
use socket2::Socket;
use steer_tests::{
    churn::mark,
    stateful::words::{Kind, LISTENING, Order},
};
use steer_user::sys::listening::{ListenOptions, bind};

use self::epoll_loop::EpollLoop;

/// The limit of the accept queue.
const BACKLOG: i32 = 512;

/// Serves `/N` after N milliseconds in which its worker does nothing else, and `/hold` with a connection that
/// stays open until the client closes it.
#[derive(Parser)]
struct Args {
    /// What kind of unit
    kind: Kind,
    /// Address and port to listen on
    address: SocketAddr,
    /// The mark of the first listener; the others' follow
    mark: u32,
    /// Descriptors of listeners that are there already, of which the first is to be polled
    #[arg(long, value_delimiter = ',')]
    inherited: Vec<RawFd>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.inherited.is_empty() {
        return child(&args);
    }
    let mut listeners = Vec::new();
    for mark in (args.mark..).take(args.kind.listeners()) {
        listeners.push((mark, listen(args.address, mark)?));
    }
    match args.kind {
        Kind::Accept => accepting::run(listeners),
        Kind::Prefork => master::run(args.address, listeners),
        Kind::Epoll | Kind::Threads | Kind::Pauses => threads(listeners),
    }
}

/// Makes a listener, and says so.
fn listen(address: SocketAddr, mark: u32) -> anyhow::Result<Socket> {
    let options = ListenOptions::new(address);
    let socket = bind(&options).with_context(|| format!("failed to bind to {address}"))?;
    mark::set(&socket, mark)?;
    socket.listen(BACKLOG)?;
    say(&format!("{LISTENING}{mark} {}", socket.cookie()?))?;
    Ok(socket)
}

/// A thread for each listener, which goes on until the process ends.
fn threads(listeners: Vec<(u32, Socket)>) -> anyhow::Result<()> {
    let mut threads = Vec::new();
    for (mark, listener) in listeners {
        threads.push(start(mark, listener, false)?);
    }
    orders(|order| {
        for thread in &threads {
            thread.tell(order)?;
        }
        // Another one listens first next time.
        threads.rotate_left(1);
        Ok(())
    })
}

/// What a master starts: it ends once it is relieved and has no connection.
fn child(args: &Args) -> anyhow::Result<()> {
    let inherited = args.inherited.iter().map(|&fd| {
        // SAFETY: the master has left each of these descriptors to this process, and nothing else in it
        // knows of them.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    let mut inherited: Vec<Socket> = inherited.map(Socket::from).collect();
    let worker = start(args.mark, inherited.remove(0), true)?;
    let mut others = inherited;
    orders(|order| {
        others.clear();
        worker.tell(order)
    })
}

/// A thread with an event loop.
struct Worker {
    orders: Sender<Order>,
    wake: OwnedFd,
}

impl Worker {
    fn tell(&self, order: Order) -> anyhow::Result<()> {
        // It fails where the thread has ended.
        self.orders.send(order)?;
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

/// Starts a worker; `ends` where the process ends with it.
fn start(mark: u32, listener: Socket, ends: bool) -> anyhow::Result<Worker> {
    let (orders, received) = channel();
    let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
    let event_loop = EpollLoop::new(mark, listener, wake.try_clone()?, received)?;
    thread::spawn(move || {
        let result = event_loop.run(ends);
        let code = i32::from(result.is_err());
        if let Err(error) = result {
            drop(writeln!(io::stderr(), "a worker failed: {error:#}"));
        }
        process::exit(code);
    });
    Ok(Worker { orders, wake })
}

/// Does what stdin says until its end.
fn orders(mut carry_out: impl FnMut(Order) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for line in io::stdin().lines() {
        let order = Order::from_line(&line?).context("no such order")?;
        carry_out(order)?;
    }
    Ok(())
}

/// A line on stdout, written at once and as a whole, also where several processes share it.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes())?;
    stdout.flush()
}
