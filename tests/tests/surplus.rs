//! More workers than slots: the surplus keeps its share by the kernel's hash, and it is said.

use std::{net::TcpListener, time::Duration};

use anyhow::ensure;
use socket2::{Domain, Socket, Type};
use steer_tests::{
    PORT,
    isolate::isolate,
    steer::{Attach, status},
    workers::local,
};

const SLOTS: usize = 256;
const SURPLUS: usize = 64;
const CONNECTIONS: usize = 3200;

#[test]
#[ignore = "privileged"]
fn surplus_workers_keep_the_hashs_share() -> anyhow::Result<()> {
    isolate()?;
    // One process may own several listeners, each of which is a worker.
    let listeners: Vec<TcpListener> = (0..SLOTS + SURPLUS)
        .map(|_| listen())
        .collect::<Result<_, _>>()?;
    // Nobody accepts: on a slow machine they would be ejected.
    let mut attach = Attach::start(PORT, "rr", &["-vv", "--eject-after", "0"])?;
    for _ in 0..CONNECTIONS {
        drop(std::net::TcpStream::connect(local(PORT))?);
    }
    let mut accepted: Vec<usize> = Vec::new();
    for listener in &listeners {
        listener.set_nonblocking(true)?;
        accepted.push(std::iter::from_fn(|| listener.accept().ok()).count());
    }
    ensure!(
        accepted.iter().sum::<usize>() == CONNECTIONS,
        "{accepted:?}"
    );
    let seen = status(PORT)?;
    let group = &seen.groups[0];
    ensure!(group.workers.len() == SLOTS && group.unsteered == SURPLUS as u64);
    ensure!(
        group.selected + group.hashed == CONNECTIONS as u64,
        "{} and {}",
        group.selected,
        group.hashed
    );
    // A fifth of the members by the hash: 640 of 3200, give or take five standard deviations.
    ensure!(
        (530..=750).contains(&group.hashed),
        "{} left to the hash",
        group.hashed
    );
    ensure!(
        group.hashed_why["unknown_worker"] == group.hashed,
        "{:?}",
        group.hashed_why
    );
    std::thread::sleep(Duration::from_millis(100));
    let said = attach.said();
    ensure!(said.contains("64 more workers than the 256"), "{said}");
    // The kernel program's own log: the first, the second, the fourth, ... of its kind.
    ensure!(
        said.contains("left to the kernel's hash: unknown_worker, 0 times before"),
        "{said}"
    );
    let lines = said.matches("unknown_worker").count();
    ensure!(
        (9..=10).contains(&lines),
        "{lines} lines for {} packets",
        group.hashed
    );
    attach.detach()
}

fn listen() -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local(PORT).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}
