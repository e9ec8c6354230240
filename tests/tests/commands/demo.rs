//! `steer demo` shows what steer does.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    isolate::{self, isolate},
    patience::patience,
    process::{Output, Process},
    steer::{binary, steer},
    texts,
};

#[test]
#[ignore = "privileged"]
fn the_table_shows_the_difference() -> anyhow::Result<()> {
    isolate()?;
    let demo = steer(["demo", "--rounds", "25", "--block-ms", "25"])?;
    ensure!(demo.code == Some(0), "{demo:?}");
    let hash = spread(&demo.stdout, texts::demo::KERNELS_HASH)?;
    // 5.6 are expected; above this is less likely than one in a million.
    ensure!(hash < 18, "{hash} of 25 under the hash:\n{}", demo.stdout);
    for policy in ["rr", "least"] {
        let spread = spread(&demo.stdout, policy)?;
        ensure!(
            spread == 25,
            "{spread} of 25 under {policy}:\n{}",
            demo.stdout
        );
    }
    let left = isolate::leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn an_interrupted_demo_ends_what_it_started() -> anyhow::Result<()> {
    isolate()?;
    let mut command = Command::new(binary()?);
    command
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut demo = Process::spawn(command, Output::Stderr)?;
    demo.wait_line(&texts::demo::measuring("rr"), Duration::from_secs(60))?;
    let asked = Instant::now();
    let ended = demo.end(Signal::INT)?;
    ensure!(ended.code() == Some(1), "{ended}: {}", demo.rest());
    ensure!(
        asked.elapsed() < patience(Duration::from_secs(5)),
        "{:?}",
        asked.elapsed()
    );
    // Nobody listens in this namespace any more, and nothing is pinned.
    let listening = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let listening = listening
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .count();
    ensure!(listening == 0, "{listening} listeners");
    let left = isolate::leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// The number of rounds in a table's row.
fn spread(table: &str, policy: &str) -> anyhow::Result<usize> {
    let row = table
        .lines()
        .find_map(|line| line.strip_prefix(policy))
        .with_context(|| format!("no row {policy} in\n{table}"))?;
    let number = row.split_whitespace().next().unwrap_or_default();
    number
        .parse()
        .with_context(|| format!("no number of rounds in {row:?}"))
}
