//! Connections that were open before `steer attach` count as load.

use std::{net::TcpStream, time::Duration};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    fixture::with_workers,
    process::eventually,
    status::Worker,
    steer::{Attach, status, steer},
    workers::{self, local},
};

fn workers_seen() -> anyhow::Result<Vec<Worker>> {
    let seen = status(PORT)?;
    Ok(seen
        .groups
        .into_iter()
        .flat_map(|group| group.workers)
        .collect())
}

fn active() -> anyhow::Result<u64> {
    Ok(workers_seen()?.iter().map(|worker| worker.active).sum())
}

fn connect(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| TcpStream::connect(local(PORT)).context("failed to connect"))
        .collect()
}

#[test]
#[ignore = "privileged"]
fn connections_from_before_are_counted() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    let before = connect(300)?;
    let attach = Attach::start(PORT, "least", &[])?;
    ensure!(
        eventually(Duration::from_secs(2), || active()
            .is_ok_and(|active| active == 300)),
        "{:?}",
        status(PORT)?
    );
    let seen = workers_seen()?;
    // The hash gave each about a hundred.
    ensure!(seen.iter().all(|worker| worker.active > 50), "{seen:?}");

    // Later ones are added, and nobody is counted twice.
    let after = connect(30)?;
    ensure!(
        eventually(Duration::from_secs(2), || active()
            .is_ok_and(|active| active == 330)),
        "{:?}",
        status(PORT)?
    );
    drop(before);
    ensure!(
        eventually(Duration::from_secs(5), || active()
            .is_ok_and(|active| active == 30)),
        "{:?}",
        status(PORT)?
    );
    drop(after);
    ensure!(
        eventually(Duration::from_secs(5), || active()
            .is_ok_and(|active| active == 0)),
        "{:?}",
        status(PORT)?
    );
    drop(workers);
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_second_attach_counts_them_again_and_a_takeover_does_not() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    // Another port keeps the tracker and its tags alive between the two.
    let _others = workers::start(1, "127.0.0.1:3001")?;
    let other = Attach::start(3001, "rr", &[])?;
    let open = connect(40)?;
    Attach::start(PORT, "least", &[])?.detach()?;
    let attach = Attach::start(PORT, "least", &["--keep"])?;
    ensure!(
        eventually(Duration::from_secs(2), || active()
            .is_ok_and(|active| active == 40)),
        "{:?}",
        status(PORT)?
    );
    attach.detach()?;
    let attach = Attach::start(PORT, "least", &[])?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(active()? == 40, "{:?}", status(PORT)?);
    drop(open);
    ensure!(
        eventually(Duration::from_secs(5), || active()
            .is_ok_and(|active| active == 0)),
        "{:?}",
        status(PORT)?
    );
    attach.detach()?;
    other.detach()?;
    ensure!(steer(["detach", "--port", "3000"])?.code == Some(4));
    Ok(())
}
