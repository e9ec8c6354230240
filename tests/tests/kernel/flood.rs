//! A flood of SYNs from nowhere makes no connections, so it moves no count of them.

use std::{
    collections::BTreeMap,
    net::{SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT, census,
    isolate::isolate,
    net,
    packet::{Flags, Sender, stranger},
    patience::is_slow,
    status::Attachment,
    steer::{Attach, status, status_when},
    workers::{self, local},
};

/// Connections that are open all the time and say nothing.
const HELD: usize = 40;

/// Connections that are made and served meanwhile.
const SERVED: usize = 300;

/// SYNs before the first of those: more than all of the workers' handshake queues take, so that the
/// kernel answers with cookies.
const FULL: u32 = 10_000;

#[test]
#[ignore = "privileged"]
fn a_flood_leaves_the_counts_alone_and_real_connections_served() -> anyhow::Result<()> {
    for policy in ["least", "rr"] {
        flood(policy).with_context(|| format!("under {policy}"))?;
    }
    Ok(())
}

fn flood(policy: &str) -> anyhow::Result<()> {
    isolate()?;
    net::route_nowhere()?;
    net::sysctl("ipv4/tcp_syncookies", "1")?;
    let _workers = workers::start(8, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, policy, &[])?;
    let held = (0..HELD)
        .map(|_| TcpStream::connect(local(PORT)))
        .collect::<Result<Vec<_>, _>>()?;
    let before = active(&status_when(PORT, |seen| open(seen) == HELD as u64)?);

    let done = Arc::new(AtomicBool::new(false));
    let flood = {
        let (done, sender) = (Arc::clone(&done), Sender::new()?);
        let to = SocketAddrV4::new([127, 0, 0, 1].into(), PORT);
        thread::spawn(move || -> anyhow::Result<u32> {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                sender.send(stranger(sent), to, Flags::Syn)?;
                sent += 1;
                if sent > FULL && sent % 50 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(sent)
        })
    };
    while status(PORT)?.groups[0].selected < u64::from(FULL) {}
    let served = census::one_by_one(local(PORT), SERVED);
    let during = status(PORT);
    done.store(true, Ordering::Relaxed);
    let sent = flood.join().expect("the thread doesn't panic")?;

    let served = served?;
    served.check()?;
    ensure!(served.answered() == SERVED, "{served:?}");
    // One of the real connections may not be over yet for its worker.
    let during = during?;
    ensure!(open(&during) <= HELD as u64 + 1, "{during:?}");
    let after = status_when(PORT, |seen| active(seen) == before)?;
    let group = &after.groups[0];
    let born: u64 = group.workers.iter().map(|worker| worker.connections).sum();
    ensure!(born == (HELD + SERVED) as u64, "{after:?}");
    ensure!(
        // On an emulated processor handshakes time out as fast as they come.
        group.selected >= u64::from(sent)
            && (group.cookie_acks > 0 || is_slow())
            && group.hashed == 0,
        "{sent} SYNs sent: {after:?}"
    );
    drop(held);
    status_when(PORT, |seen| open(seen) == 0)?;
    attach.detach()
}

/// Open connections by worker.
fn active(seen: &Attachment) -> BTreeMap<u32, u64> {
    seen.live()
        .map(|worker| (worker.pid, worker.active))
        .collect()
}

/// Open connections.
fn open(seen: &Attachment) -> u64 {
    seen.live().map(|worker| worker.active).sum()
}
