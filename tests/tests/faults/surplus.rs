//! More workers than slots: the surplus keeps its share by the kernel's hash, and it is said.

use std::{net::TcpListener, time::Duration};

use anyhow::ensure;
use rustix::{
    process::Signal,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use socket2::{Domain, SockRef, Socket, Type};
use steer_common::offsets::MISSING;
use steer_tests::{
    PORT,
    isolate::isolate,
    skip::{Skip, skip},
    steer::{Attach, status},
    texts,
    workers::local,
};
use steer_user::kernel::offsets;

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
    ensure!(
        said.contains(&texts::attach::surplus(SURPLUS, SLOTS)),
        "{said}"
    );
    // The kernel program's own log: the first, the second, the fourth, ... of its kind.
    ensure!(
        said.contains(&texts::attach::left_to_the_hash("unknown_worker")),
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

/// A member that steer doesn't have, and that has SO_INCOMING_CPU, gets what its processor handles, and its
/// part of the rest: as without steer.
#[test]
#[ignore = "privileged"]
fn a_member_of_a_processor_keeps_the_hashs_share() -> anyhow::Result<()> {
    const TEST: &str = "a_member_of_a_processor_keeps_the_hashs_share";
    isolate()?;
    let allowed = sched_getaffinity(None)?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    let (Some(own), Some(other)) = (processors.next(), processors.next()) else {
        return skip(
            TEST,
            &Skip::Kernel {
                lacks: "a second processor",
            },
        );
    };
    if offsets::read()?.reuse_incoming_cpu == MISSING {
        return skip(
            TEST,
            &Skip::Kernel {
                lacks: "SO_INCOMING_CPU in groups",
            },
        );
    }
    let mut listeners: Vec<TcpListener> = (0..3).map(|_| listen()).collect::<Result<_, _>>()?;
    let mut attach = Attach::start(PORT, "rr", &["--eject-after", "0"])?;
    attach.end(Signal::KILL)?;
    let newest = listen()?;
    SockRef::from(&newest).set_cpu_affinity(own)?;
    listeners.push(newest);
    let run_on = |processor| -> anyhow::Result<Vec<usize>> {
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only)?;
        for _ in 0..120 {
            drop(std::net::TcpStream::connect(local(PORT))?);
        }
        let counts = listeners.iter().map(|listener| {
            listener.set_nonblocking(true)?;
            Ok(std::iter::from_fn(|| listener.accept().ok()).count())
        });
        counts.collect()
    };
    let on_own = run_on(own)?;
    ensure!(on_own == [0, 0, 0, 120], "{on_own:?}");
    let on_other = run_on(other)?;
    // A quarter by the hash: 30, give or take five standard deviations.
    ensure!((7..=53).contains(&on_other[3]), "{on_other:?}");
    ensure!(on_other[..3].iter().all(|count| *count > 0), "{on_other:?}");
    Ok(())
}

fn listen() -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local(PORT).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}
