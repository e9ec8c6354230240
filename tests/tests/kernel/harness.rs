//! The harness itself, under the kernel's hash: what the other tests rely on.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddrV4, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::ensure;
use steer_tests::{
    PORT,
    bursts::Bursts,
    census::{self, Census},
    fixture::with_workers,
    foreign,
    isolate::{self, isolate},
    net,
    packet::{Flags, Seen, Sender, Sniffer, stranger},
    process::{Output, Process, eventually},
    workers::{self, Worker, local},
};
use steer_user::{demo::client, sys::listening::ListenOptions};

/// States of connections, as `/proc/net/tcp` has them.
const ESTABLISHED: &str = "01";
const SYN_RECV: &str = "03";

#[test]
#[ignore = "privileged"]
fn a_test_has_its_own_network_and_files() -> anyhow::Result<()> {
    isolate()?;
    ensure!(isolate::leftovers()?.is_empty());
    std::fs::write("/run/steer-harness", "")?;
    ensure!(isolate::leftovers()? == [Path::new("/run/steer-harness")]);
    let workers = workers::start(1, "127.0.0.1:3000")?;
    // A second test at the same time, on the same port.
    thread::spawn(move || {
        isolate::isolate_without_bpffs()?;
        ensure!(isolate::leftovers()?.is_empty());
        let neighbour = Worker::start("127.0.0.1:3000", &["--no-reuse-port"])?;
        census::one_by_one(local(PORT), 3)?.exactly(&[neighbour.pid()], 3)
    })
    .join()
    .expect("the thread doesn't panic")?;
    census::one_by_one(local(PORT), 3)?.exactly(&workers::pids(&workers), 3)
}

#[test]
#[ignore = "privileged"]
fn the_kernels_hash_collides_and_the_census_adds_up() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    let census = census::one_by_one(local(PORT), 300)?;
    census.check()?;
    ensure!(census.answered() == 300, "{census:?}");
    ensure!(census.served.len() == workers.len(), "{census:?}");
    ensure!(!census::takes_turns(local(PORT), 3)?);
    let pids = workers::pids(&workers);
    let bursts = Bursts::run(PORT, &pids, 1, 30, Duration::from_millis(10))?;
    // 22 % are expected; less than one in a million runs is above this.
    ensure!(bursts.even < 20, "{bursts}");

    for worker in workers {
        worker.stop()?;
    }
    let census = census::one_by_one(local(PORT), 5)?;
    ensure!(
        census.refused == 5,
        "{census:?} after {pids:?} have stopped"
    );
    census.check()
}

/// Whose request hasn't come yet when the worker is told to stop is answered all the same.
#[test]
#[ignore = "privileged"]
fn a_worker_that_stops_answers_whom_it_has_accepted() -> anyhow::Result<()> {
    isolate()?;
    let worker = Worker::start("127.0.0.1:3000", &[])?;
    let pid = worker.pid();
    let mut silent = TcpStream::connect(local(PORT))?;
    // It has accepted that one before this.
    census::one_by_one(local(PORT), 1)?.exactly(&[pid], 1)?;
    let stopping = thread::spawn(|| worker.stop());
    let closed = eventually(Duration::from_secs(3), || {
        TcpStream::connect(local(PORT)).is_err()
    });
    ensure!(closed, "still listening");
    silent.write_all(b"GET / HTTP/1.1\r\nHost: steer\r\n\r\n")?;
    let mut answer = String::new();
    silent.read_to_string(&mut answer)?;
    ensure!(answer.ends_with(&format!("{pid}\n")), "{answer:?}");
    stopping.join().expect("the thread doesn't panic")
}

#[test]
#[ignore = "privileged"]
fn a_blocked_worker_delays_everything_else_it_has() -> anyhow::Result<()> {
    isolate()?;
    let worker = Worker::start("127.0.0.1:3000", &["--defer-accept", "1"])?;
    let target = client::Target {
        path: "/block?ms=50".to_owned(),
        ..census::root(local(PORT))
    };
    let shots = client::fire(&target, 4)?;
    let mut census = Census::default();
    census.add(4, &shots);
    census.exactly(&[worker.pid()], 4)?;
    let mut took: Vec<_> = shots.iter().map(|shot| shot.took).collect();
    took.sort_unstable();
    for (place, took) in took.iter().enumerate() {
        let least = Duration::from_millis(50) * (place as u32 + 1);
        ensure!(*took >= least, "answer {place} after {took:?} already");
    }
    worker.stop()
}

#[test]
#[ignore = "privileged"]
fn hung_and_reset_connections_are_told_apart() -> anyhow::Result<()> {
    isolate()?;
    let worker = Worker::start("127.0.0.1:3000", &[])?;
    let target = client::Target {
        path: "/block?ms=30000".to_owned(),
        patience: Duration::from_millis(300),
        ..census::root(local(PORT))
    };
    let mut census = Census::default();
    census.add(2, &client::fire(&target, 2)?);
    ensure!(census.hung == 2, "{census:?}");

    let target = client::Target {
        patience: Duration::from_secs(5),
        ..target
    };
    // The two from before are half closed by now; it is busy with one of them.
    let waiting = thread::spawn(move || client::fire(&target, 2));
    let established = || connections(ESTABLISHED).is_ok_and(|count| count == 2);
    ensure!(eventually(Duration::from_secs(5), established));
    worker.kill()?;
    let mut census = Census::default();
    census.add(2, &waiting.join().expect("the thread doesn't panic")?);
    ensure!(census.reset == 2, "{census:?}");
    census.check()
}

#[test]
#[ignore = "privileged"]
fn raw_segments_arrive_with_their_flags() -> anyhow::Result<()> {
    isolate()?;
    net::route_nowhere()?;
    let sniffer = Sniffer::new()?;
    let sender = Sender::new()?;
    let to = SocketAddrV4::new([127, 0, 0, 1].into(), PORT);
    let all = Flags::STRAY.into_iter().chain([Flags::Syn]);
    for (number, flags) in (0..).zip(all) {
        let from = stranger(number);
        sender.send(from, to, flags)?;
        let seen = sniffer.next_to(PORT)?;
        let wanted = Seen {
            source_port: from.port(),
            destination_port: PORT,
            flags: Some(flags),
        };
        ensure!(seen == wanted, "{seen:?} instead of {wanted:?}");
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_bare_syn_stays_a_handshake() -> anyhow::Result<()> {
    isolate()?;
    net::route_nowhere()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    let sender = Sender::new()?;
    let to = SocketAddrV4::new([127, 0, 0, 1].into(), PORT);
    for number in 0..50 {
        sender.send(stranger(number), to, Flags::Syn)?;
    }
    let handshakes = connections(SYN_RECV)?;
    ensure!(handshakes == 50, "{handshakes} in SYN_RECV");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn the_worker_closes_what_others_would_keep_open() -> anyhow::Result<()> {
    isolate()?;
    let mut options = ListenOptions::new("[::1]:3000".parse()?);
    options.v6only = Some(true);
    let listener = steer_user::sys::listening::listen(&options)?;
    // Two processes that poll one listener; this one doesn't.
    let first = Worker::start_on(&listener)?;
    let second = Worker::start_on(&listener)?;
    drop(listener);
    let census = census::one_by_one("[::1]:3000".parse()?, 20)?;
    ensure!(census.answered() == 20, "{census:?}");
    first.stop()?;
    census::one_by_one("[::1]:3000".parse()?, 5)?.exactly(&[second.pid()], 5)
}

#[test]
#[ignore = "privileged"]
fn a_listener_goes_into_one_map_only() -> anyhow::Result<()> {
    isolate()?;
    let options = ListenOptions::new(local(PORT));
    let listener = steer_user::sys::listening::listen(&options)?;
    let _map = foreign::take_into_map(&listener)?;
    let error = foreign::take_into_map(&listener).expect_err("it is in a map already");
    ensure!(error.raw_os_error() == Some(libc::EBUSY), "{error}");
    let _taken = Worker::start("127.0.0.1:3001", &["--foreign-map"])?;

    let first = Worker::start("127.0.0.2:3000", &["--foreign-program"])?;
    let _second = Worker::start("127.0.0.2:3000", &[])?;
    census::one_by_one("127.0.0.2:3000".parse()?, 20)?.exactly(&[first.pid()], 20)
}

#[test]
#[ignore = "privileged"]
fn a_process_that_ends_says_what_it_said() -> anyhow::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; echo two; exit 3"]);
    let mut process = Process::spawn(command, Output::Stdout)?;
    process.wait_line("two", Duration::from_secs(5))?;
    let error = process
        .wait_line("three", Duration::from_secs(5))
        .expect_err("there is no such line");
    ensure!(error.to_string().contains(r#"["one", "two"]"#), "{error}");
    ensure!(process.wait(Duration::from_secs(5))?.code() == Some(3));
    Ok(())
}

/// How many connections the workers of the port have in a state.
fn connections(state: &str) -> anyhow::Result<usize> {
    let port = format!(":{PORT:04X}");
    // Per thread: /proc/net is the whole process's, and so another namespace.
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(state)
    };
    Ok(sockets.lines().filter(is_one).count())
}
