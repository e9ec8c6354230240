//! Several groups on one port at the same time.
//!
//! What the kernel lets coexist, with `SO_REUSEPORT` and one uid: any local addresses, 0.0.0.0, a
//! v6only [::] and a dual-stack [::]. It looks for the best match: an exact address, then IPv4
//! over dual-stack for an IPv4 client; of two equally good groups the one that listened first gets
//! everything. So a dual-stack [::] gets no IPv4 beside 0.0.0.0, and no IPv6 after a v6only [::].

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT, census,
    isolate::isolate,
    status::Attachment,
    steer::{Attach, status, status_when},
    texts,
    workers::{self, Worker},
};

/// Where a client connects, and the group that gets it: address and v6only.
type Path = (&'static str, &'static str, bool);

#[test]
#[ignore = "privileged"]
fn the_kernel_finds_the_best_match() -> anyhow::Result<()> {
    isolate()?;
    let exact = Worker::start("127.0.0.1:3000", &[])?;
    let v6only = Worker::start("[::]:3000", &["--v6only", "true"])?;
    let dual = Worker::start("[::]:3000", &["--v6only", "false"])?;
    let answers = |address: &str, worker: &Worker| -> anyhow::Result<()> {
        census::one_by_one(address.parse()?, 20)?
            .exactly(&[worker.pid()], 20)
            .with_context(|| format!("connections to {address}"))
    };
    answers("127.0.0.1:3000", &exact)?;
    answers("127.0.0.3:3000", &dual)?;
    answers("[::1]:3000", &v6only)?;
    let any = Worker::start("0.0.0.0:3000", &[])?;
    answers("127.0.0.1:3000", &exact)?;
    answers("127.0.0.3:3000", &any)?;
    answers("[::1]:3000", &v6only)?;
    v6only.stop()?;
    answers("[::1]:3000", &dual)
}

#[test]
#[ignore = "privileged"]
fn two_addresses_and_both_kinds_of_ipv6() -> anyhow::Result<()> {
    let workers: &[&str] = &[
        "--bind=127.0.0.1:3000",
        "--v6only=false",
        "--bind=127.0.0.2:3000",
        "--v6only=false",
        "--bind=[::]:3000",
        "--v6only=true",
        "--bind=[::]:3000",
        "--v6only=false",
    ];
    each_group_takes_turns(
        workers,
        &[
            ("127.0.0.1:3000", "127.0.0.1:3000", false),
            ("127.0.0.2:3000", "127.0.0.2:3000", false),
            ("[::1]:3000", "[::]:3000", true),
            ("127.0.0.3:3000", "[::]:3000", false),
        ],
    )
}

#[test]
#[ignore = "privileged"]
fn ipv4_only_beside_dual_stack() -> anyhow::Result<()> {
    let workers: &[&str] = &[
        "--bind=0.0.0.0:3000",
        "--v6only=false",
        "--bind=[::]:3000",
        "--v6only=false",
    ];
    each_group_takes_turns(
        workers,
        &[
            ("127.0.0.1:3000", "0.0.0.0:3000", false),
            ("[::1]:3000", "[::]:3000", false),
        ],
    )
}

#[test]
#[ignore = "privileged"]
fn dual_stack_alone_serves_both() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(3, "[::]:3000")?;
    let pids = workers::pids(&workers);
    let attach = Attach::start(PORT, "rr", &[])?;
    census::one_by_one("127.0.0.1:3000".parse()?, 60)?.exactly(&pids, 20)?;
    census::one_by_one("[::1]:3000".parse()?, 60)?.exactly(&pids, 20)?;
    let seen = status(PORT)?;
    ensure!(seen.groups.len() == 1, "{seen:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn bind_narrows_to_one_address() -> anyhow::Result<()> {
    isolate()?;
    let both: &[&str] = &["--bind", "127.0.0.2:3000"];
    let _workers = [
        Worker::start("127.0.0.1:3000", both)?,
        Worker::start("127.0.0.1:3000", both)?,
        Worker::start("127.0.0.1:3000", both)?,
    ];
    let attach = Attach::start(PORT, "rr", &["--bind", "127.0.0.2"])?;
    ensure!(census::takes_turns("127.0.0.2:3000".parse()?, 3)?);
    ensure!(!census::takes_turns("127.0.0.1:3000".parse()?, 3)?);
    let seen = status(PORT)?;
    let addresses: Vec<_> = seen.groups.iter().map(|group| &group.address).collect();
    ensure!(addresses == ["127.0.0.2:3000"], "{seen:?}");
    attach.detach()
}

/// Three processes with a listener in every group: each group is steered by itself.
fn each_group_takes_turns(args: &[&str], paths: &[Path]) -> anyhow::Result<()> {
    isolate()?;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Worker::start_with(args)?);
    }
    let pids = workers::pids(&workers);
    let mut attach = Attach::start(PORT, "rr", &[])?;
    let groups = paths.len();
    // The first line was that of the first group.
    for _ in 1..groups {
        attach.wait_line(texts::attach::STEERING)?;
    }
    status_when(PORT, |seen| {
        seen.groups.len() == groups && seen.live().count() == 3 * groups
    })?;

    for (client, address, v6only) in paths {
        let before = selected(&status(PORT)?, address, *v6only)?;
        let client: SocketAddr = client.parse()?;
        census::one_by_one(client, 60)?
            .exactly(&pids, 20)
            .with_context(|| format!("{client} over {address}, v6only {v6only}"))?;
        ensure!(census::takes_turns(client, 3)?, "{client}");
        let seen = status(PORT)?;
        // 60 and the twenty rounds of three.
        let gained = selected(&seen, address, *v6only)? - before;
        ensure!(gained == 120, "{client}: {gained} selections in {seen:?}");
    }
    attach.detach()
}

fn selected(seen: &Attachment, address: &str, v6only: bool) -> anyhow::Result<u64> {
    let group = seen
        .group(address, v6only)
        .with_context(|| format!("no group {address}, v6only {v6only} in {seen:?}"))?;
    Ok(group.selected)
}
