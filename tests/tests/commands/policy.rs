//! Policies, weights, drain and standby, as the kernel carries them out.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use socket2::{Domain, Socket, Type};
use steer_tests::{
    PORT,
    bursts::Bursts,
    census,
    isolate::isolate,
    net,
    packet::{Flags, Sender},
    patience::slowed,
    process::eventually,
    steer::{Attach, Finished, status, status_when, steer},
    texts,
    workers::{self, local},
};
use steer_user::demo::client;

fn run(args: &[&str]) -> anyhow::Result<Finished> {
    steer(args.iter().copied())
}

fn done(args: &[&str]) -> anyhow::Result<()> {
    let finished = run(args)?;
    ensure!(finished.code == Some(0), "{args:?}: {finished:?}");
    Ok(())
}

fn served(count: usize, pid: u32) -> anyhow::Result<usize> {
    let census = census::one_by_one(local(PORT), count)?;
    census.check()?;
    ensure!(census.answered() == count, "{census:?}");
    Ok(census.served.get(&pid).copied().unwrap_or_default())
}

#[test]
#[ignore = "privileged"]
fn the_policy_changes_in_place() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(4, "127.0.0.1:3000")?;
    let pids = workers::pids(&workers);
    let attach = Attach::start(PORT, "rr", &[])?;
    for policy in ["least", "p2c", "hash", "sticky", "rr"] {
        done(&["policy", "--port", "3000", policy])?;
        ensure!(status(PORT)?.policy == policy);
        let census = census::one_by_one(local(PORT), 400)?;
        ensure!(census.answered() == 400, "{policy}: {census:?}");
        let most = census.served.values().max().copied().unwrap_or_default();
        match policy {
            // One client address.
            "sticky" => ensure!(census.served.len() == 1, "{policy}: {census:?}"),
            "p2c" | "hash" => ensure!(
                census.served.len() == 4 && most < 160,
                "{policy}: {census:?}"
            ),
            // Ties rotate; but a worker may not have waited again when the next one is asked for.
            "least" => ensure!(census.served.len() == 4, "{policy}: {census:?}"),
            _ => census.exactly(&pids, 100)?,
        }
    }
    let seen = status(PORT)?;
    let group = &seen.groups[0];
    ensure!(group.selected == 2000 && group.hashed == 0, "{seen:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn sticky_keeps_a_client_and_spreads_clients() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(4, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "sticky", &[])?;
    let mut clients = std::collections::BTreeMap::new();
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

#[test]
#[ignore = "privileged"]
fn weights_drain_and_standby() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let pid = workers[0].pid();
    let name = pid.to_string();
    let attach = Attach::start(PORT, "rr", &[])?;
    // An idle worker is preferred by least whatever its weight, which a client that asks one at a
    // time finds most of the time: nothing to count.
    for (policy, least, most) in [("rr", 300, 300), ("least", 1, 600), ("hash", 220, 380)] {
        done(&["policy", "--port", "3000", policy])?;
        done(&["weight", "--port", "3000", "--pid", &name, "2"])?;
        let count = served(600, pid)?;
        ensure!((least..=most).contains(&count), "{policy}: {count} of 600");
        done(&["drain", "--port", "3000", "--pid", &name])?;
        ensure!(served(100, pid)? == 0, "{policy}: selected while drained");
        done(&["undrain", "--port", "3000", "--pid", &name])?;
        done(&["weight", "--port", "3000", "--pid", &name, "1", "--standby"])?;
        ensure!(served(100, pid)? == 0, "{policy}: selected on standby");
        for other in &workers[1..] {
            done(&["drain", "--port", "3000", "--pid", &other.pid().to_string()])?;
        }
        ensure!(served(100, pid)? == 100, "{policy}: standby unused");
        // With nobody else left, draining workers are used.
        done(&["drain", "--port", "3000", "--pid", &name])?;
        ensure!(
            served(90, pid)? < 90,
            "{policy}: one of three drained serves all"
        );
        for worker in &workers {
            let name = worker.pid().to_string();
            done(&["undrain", "--port", "3000", "--pid", &name])?;
        }
        done(&["weight", "--port", "3000", "--pid", &name, "--no-standby"])?;
    }
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn drain_waits_for_the_last_connection() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(1, "127.0.0.1:3000")?;
    let name = workers[0].pid().to_string();
    let attach = Attach::start(PORT, "least", &[])?;
    let slow = client::Target {
        path: format!("/block?ms={}", slowed(4000)),
        ..census::root(local(PORT))
    };
    let request = std::thread::spawn(move || client::fire(&slow, 1));
    status_when(PORT, |seen| seen.live().any(|worker| worker.active == 1))?;
    let drain = ["drain", "--port", "3000", "--pid", &name, "--wait"];
    let timed_out = run(&[&drain[..], &["--timeout", "100ms"]].concat())?;
    ensure!(timed_out.code == Some(8), "{timed_out:?}");
    done(&drain)?;
    let seen = status(PORT)?;
    let active: u64 = seen
        .groups
        .iter()
        .flat_map(|group| &group.workers)
        .map(|worker| worker.active)
        .sum();
    ensure!(active == 0, "{seen:?}");
    // The worker has answered before it closed.
    ensure!(eventually(Duration::from_secs(1), || request.is_finished()));
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_change_survives_a_join_and_names_its_mistakes() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(2, "127.0.0.1:3000")?;
    let name = workers[0].pid().to_string();
    let attach = Attach::start(PORT, "rr", &[])?;
    done(&["weight", "--port", "3000", "--pid", &name, "4"])?;
    done(&["policy", "--port", "3000", "least"])?;
    let third = workers::start(1, "127.0.0.1:3000")?;
    ensure!(
        eventually(Duration::from_secs(2), || {
            status(PORT).is_ok_and(|seen| seen.live().count() == 3)
        }),
        "the third worker didn't join"
    );
    let seen = status(PORT)?;
    ensure!(seen.policy == "least", "{seen:?}");
    done(&["policy", "--port", "3000", "rr"])?;
    ensure!(served(600, workers[0].pid())? == 400, "the weight is gone");
    for (args, code, what) in [
        (
            &["weight", "--port", "3000", "--pid", "1", "2"][..],
            4,
            texts::refused::no_process(1),
        ),
        (
            &["drain", "--port", "3000", "--slot", "77"],
            4,
            texts::refused::no_slot(77),
        ),
        (
            &["weight", "--port", "3000", "--pid", &name, "65"],
            2,
            "65".to_owned(),
        ),
        (
            &["weight", "--port", "3000", "--pid", &name, "0"],
            2,
            "0".to_owned(),
        ),
        (
            &["drain", "--port", "3000"],
            2,
            texts::refused::PID_OPTION.to_owned(),
        ),
        (&["policy", "--port", "3000", "best"], 2, "best".to_owned()),
        (
            &["policy", "--port", "3001", "rr"],
            4,
            texts::refused::not_steered(3001),
        ),
    ] {
        let finished = run(args)?;
        ensure!(finished.code == Some(code), "{args:?}: {finished:?}");
        ensure!(finished.stderr.contains(&what), "{args:?}: {finished:?}");
    }
    drop(third);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn bursts_are_even() -> anyhow::Result<()> {
    const ROUNDS: usize = 60;
    const BLOCK: Duration = Duration::from_millis(10);
    isolate()?;
    net::sysctl("core/somaxconn", "4096")?;
    let workers = workers::start(8, "127.0.0.1:3000")?;
    let pids = workers::pids(&workers);
    let hash = Bursts::run(PORT, &pids, 8, ROUNDS, BLOCK)?;
    for policy in ["rr", "least"] {
        // A worker that gets no processor for a second isn't what this is about.
        let attach = Attach::start(PORT, policy, &["--eject-after", "0"])?;
        Bursts::run(PORT, &pids, 8, ROUNDS, BLOCK)?.check(policy, &hash)?;
        attach.detach()?;
    }
    Ok(())
}

/// A health check that opens no connection comes before each one: a SYN, whose answer the kernel resets, as
/// nobody waits for it.
#[test]
#[ignore = "privileged"]
fn half_open_checks_leave_no_idle_worker_without_connections() -> anyhow::Result<()> {
    const CHECKS_BEFORE: [u16; 2] = [1, 3];
    const ROUNDS: u16 = 160;
    isolate()?;
    let workers = workers::start(2, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "least", &[])?;
    let sender = Sender::new()?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let mut port = 20_000;
    for checks in CHECKS_BEFORE {
        let mut served = std::collections::BTreeMap::new();
        for _ in 0..ROUNDS {
            for _ in 0..checks {
                port += 1;
                let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
                sender.send(from, to, Flags::Syn)?;
            }
            let census = census::one_by_one(local(PORT), 1)?;
            ensure!(census.answered() == 1, "{census:?}");
            for pid in census.served.into_keys() {
                *served.entry(pid).or_insert(0) += 1;
            }
        }
        for pid in workers::pids(&workers) {
            let count = served.get(&pid).copied().unwrap_or_default();
            ensure!(
                count >= ROUNDS / 4,
                "{checks} checks before each connection: {served:?}"
            );
        }
    }
    attach.detach()
}

/// Which worker serves a client with this address.
fn ask_from(client: Ipv4Addr) -> anyhow::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((client, 0)).into())?;
    socket.connect(&local(PORT).into())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = std::net::TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: steer\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let pid = answer.lines().last().context("an empty answer")?;
    Ok(pid.trim().parse()?)
}
