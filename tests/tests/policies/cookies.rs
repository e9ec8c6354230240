//! Under SYN cookies the choice that counts is the one made for the ACK.

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    census::{self, Census},
    isolate::isolate,
    net,
    patience::{is_slow, slowed},
    steer::{Attach, status},
    workers::{self, local},
};
use steer_user::demo::client;

/// Connections of each kind, and the workers that they are spread over.
const CONNECTIONS: usize = 800;
const WORKERS: usize = 8;

/// How many come at the same time.
const BURST: usize = 64;

#[test]
#[ignore = "privileged"]
fn connections_that_begin_with_a_cookie_are_even() -> anyhow::Result<()> {
    isolate()?;
    net::sysctl("ipv4/tcp_syncookies", "2")?;
    // A port that is still in TIME_WAIT gets no cookie, whatever the setting.
    net::sysctl("ipv4/tcp_max_tw_buckets", "0")?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let pids = workers::pids(&workers);
    for policy in ["rr", "least"] {
        let attach = Attach::start(PORT, policy, &[])?;
        let mut bursts = Census::default();
        // `least` gives who is done first more, so its jobs have to take longer than this machine's
        // scheduler makes a difference of.
        let target = client::Target {
            path: format!(
                "/block?ms={}",
                if policy == "least" { slowed(10) } else { 0 }
            ),
            ..census::root(local(PORT))
        };
        while bursts.sent < CONNECTIONS {
            let count = BURST.min(CONNECTIONS - bursts.sent);
            bursts.add(count, &client::fire(&target, count)?);
        }
        even(&bursts, &pids).with_context(|| format!("{policy}, in bursts"))?;
        let mut all = CONNECTIONS;
        // `least` leaves out whoever isn't back in its event loop yet, so one by one only `rr` is
        // even by design.
        if policy == "rr" {
            let single = census::one_by_one(local(PORT), CONNECTIONS)?;
            even(&single, &pids).with_context(|| format!("{policy}, one by one"))?;
            all += CONNECTIONS;
        }
        let seen = status(PORT)?;
        let acks: u64 = seen.groups.iter().map(|group| group.cookie_acks).sum();
        // The request may come on another processor while its ACK still makes the connection: then
        // it is a second one. An emulated processor may stand still just then, as the thread that it
        // is waits for a real one: beside other load that was 40 in 800, and 1 without.
        let twice = if is_slow() { all / 10 } else { all / 100 };
        ensure!(
            (all..=all + twice).contains(&(acks as usize)),
            "{acks} cookie ACKs of {all}: {seen:?}"
        );
        attach.detach()?;
    }
    Ok(())
}

/// Checks that all were answered, by each of these within 5 % of its share.
fn even(census: &Census, workers: &[u32]) -> anyhow::Result<()> {
    census.check()?;
    ensure!(census.answered() == CONNECTIONS, "{census:?}");
    let share = CONNECTIONS / workers.len();
    for pid in workers {
        let served = census.served.get(pid).copied().unwrap_or_default();
        ensure!(20 * served.abs_diff(share) <= share, "{census:?}");
    }
    Ok(())
}
