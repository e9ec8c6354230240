//! Under SYN cookies the choice that counts is the one made for the ACK.

use anyhow::ensure;
use steer_tests::{
    PORT, census,
    isolate::isolate,
    net,
    steer::{Attach, status},
    workers::{self, local},
};

#[test]
#[ignore = "privileged"]
fn rr_is_even_when_every_connection_begins_with_a_cookie() -> anyhow::Result<()> {
    isolate()?;
    net::sysctl("ipv4/tcp_syncookies", "2")?;
    let workers = workers::start(8, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let census = census::one_by_one(local(PORT), 800)?;
    census.check()?;
    ensure!(census.answered() == 800, "{census:?}");
    for pid in workers::pids(&workers) {
        let served = census.served.get(&pid).copied().unwrap_or_default();
        // Within 5 % of 100.
        ensure!((95..=105).contains(&served), "{census:?}");
    }
    let seen = status(PORT)?;
    let acks: u64 = seen.groups.iter().map(|group| group.cookie_acks).sum();
    ensure!(acks >= 800, "{acks} cookie ACKs counted: {seen:?}");
    attach.detach()
}
