//! Health checks that open no connection don't decide who gets the next one.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::ensure;
use steer_tests::{
    PORT, census,
    fixture::steered,
    packet::{Flags, Sender},
    workers::{self, local},
};

/// A health check that opens no connection comes before each one: a SYN, whose answer the kernel resets, as
/// nobody waits for it.
#[test]
#[ignore = "privileged"]
fn half_open_checks_leave_no_idle_worker_without_connections() -> anyhow::Result<()> {
    const CHECKS_BEFORE: [u16; 2] = [1, 3];
    const ROUNDS: u16 = 160;
    let (workers, attach) = steered(2, "least", &[])?;
    let sender = Sender::new()?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let mut port = 20_000;
    for checks in CHECKS_BEFORE {
        let mut served = BTreeMap::new();
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
