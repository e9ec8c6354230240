//! `rr` gives every worker exactly its share, whatever else arrives at the port.

use std::{
    net::SocketAddrV4,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::ensure;
use steer_tests::{
    PORT,
    census::{self, Census},
    isolate::isolate,
    net,
    packet::{Flags, Sender, stranger},
    status::Attachment,
    steer::{Attach, status_when},
    workers::{self, local},
};

const WORKERS: usize = 3;

#[test]
#[ignore = "privileged"]
fn stray_segments_move_nothing() -> anyhow::Result<()> {
    isolate()?;
    net::route_nowhere()?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &[])?;

    let done = Arc::new(AtomicBool::new(false));
    let stray = {
        let (done, sender) = (Arc::clone(&done), Sender::new()?);
        thread::spawn(move || -> anyhow::Result<usize> {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                for flags in Flags::STRAY {
                    sender.send(stranger(sent as u32), port(), flags)?;
                    sent += 1;
                }
                thread::sleep(Duration::from_micros(500));
            }
            Ok(sent)
        })
    };
    let census = census::one_by_one(local(PORT), 1000 * WORKERS);
    done.store(true, Ordering::Relaxed);
    let stray = stray.join().expect("the thread doesn't panic")?;

    census?.exactly(&workers::pids(&workers), 1000)?;
    ensure!(stray > 400, "only {stray} stray segments");
    let seen = settled()?;
    let group = &seen.groups[0];
    ensure!(group.selected == 3000 && group.hashed == 0, "{seen:?}");
    for worker in &group.workers {
        ensure!(
            worker.selected == 1000 && worker.connections == 1000,
            "{seen:?}"
        );
    }
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_bare_syn_is_a_selection() -> anyhow::Result<()> {
    isolate()?;
    net::route_nowhere()?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let sender = Sender::new()?;

    let mut census = Census::default();
    // Seven connections to two SYNs: a pattern that the number of workers doesn't divide.
    for number in 0..300 {
        let round = census::one_by_one(local(PORT), 7)?;
        census.sent += round.sent;
        for (pid, count) in round.served {
            *census.served.entry(pid).or_default() += count;
        }
        sender.send(stranger(2 * number), port(), Flags::Syn)?;
        sender.send(stranger(2 * number + 1), port(), Flags::Syn)?;
    }
    census.check()?;
    ensure!(census.answered() == 2100, "{census:?}");

    let seen = settled()?;
    let group = &seen.groups[0];
    ensure!(group.selected == 2700 && group.hashed == 0, "{seen:?}");
    ensure!(group.workers.len() == workers.len(), "{seen:?}");
    for worker in &group.workers {
        ensure!(worker.selected == 900, "{seen:?}");
    }
    attach.detach()
}

fn port() -> SocketAddrV4 {
    SocketAddrV4::new([127, 0, 0, 1].into(), PORT)
}

/// What steer says once all connections are closed.
fn settled() -> anyhow::Result<Attachment> {
    let seen = status_when(PORT, |seen| seen.is_idle(WORKERS))?;
    ensure!(seen.groups.len() == 1, "{seen:?}");
    Ok(seen)
}
