//! `sticky` keeps each client at its worker, and moves only the clients of one that can't be selected.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use socket2::{Domain, Socket, Type};
use steer_tests::{
    PORT,
    fixture::steered,
    steer::steer,
    workers::{self, local},
};

#[test]
#[ignore = "privileged"]
fn sticky_keeps_a_client_and_spreads_clients() -> anyhow::Result<()> {
    let (workers, attach) = steered(4, "sticky", &[])?;
    let mut clients = BTreeMap::new();
    for number in 1..=200 {
        let client = Ipv4Addr::new(127, 0, 1, number);
        let first = ask_from(client)?;
        ensure!(ask_from(client)? == first, "{client} moved");
        clients.insert(client, first);
    }
    for pid in workers::pids(&workers) {
        let count = clients.values().filter(|worker| **worker == pid).count();
        ensure!(
            (25..=75).contains(&count),
            "{pid} has {count} of 200 clients"
        );
    }
    // Only the clients of the one that is drained move, and they come back.
    let drained = workers[0].pid();
    done(&["drain", "--port", "3000", "--pid", &drained.to_string()])?;
    for (client, worker) in &clients {
        let now = ask_from(*client)?;
        ensure!(now != drained, "{client} is on the drained worker");
        ensure!(now == *worker || *worker == drained, "{client} moved");
    }
    done(&["undrain", "--port", "3000", "--pid", &drained.to_string()])?;
    for (client, worker) in &clients {
        ensure!(ask_from(*client)? == *worker, "{client} did not come back");
    }
    attach.detach()
}

/// Which worker serves a client with this address.
fn ask_from(client: Ipv4Addr) -> anyhow::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((client, 0)).into())?;
    socket.connect(&local(PORT).into())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: steer\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let pid = answer.lines().last().context("an empty answer")?;
    Ok(pid.trim().parse()?)
}

fn done(args: &[&str]) -> anyhow::Result<()> {
    let finished = steer(args.iter().copied())?;
    ensure!(finished.code == Some(0), "{args:?}: {finished:?}");
    Ok(())
}
