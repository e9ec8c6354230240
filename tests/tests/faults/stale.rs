//! What killed steers have left where nobody listens any more is removed by the next one on the host.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
};

use anyhow::ensure;
use rustix::{
    process::Signal,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use steer_common::names::LAYOUT;
use steer_tests::{
    isolate::isolate,
    net,
    steer::{Attach, code, nothing_is_left, steer},
    texts,
    workers::{self, Worker},
};

/// Workers of a network namespace of their own that a steer has steered until it was killed. The
/// namespace ends with them.
fn left_behind() -> anyhow::Result<Vec<Worker>> {
    let here = File::open("/proc/thread-self/ns/net")?;
    // SAFETY: only this thread's view of the network changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    net::loopback_up()?;
    let workers = workers::start(2, "127.0.0.1:3000")?;
    let mut attach = Attach::start(3000, "rr", &[])?;
    attach.end(Signal::KILL)?;
    move_into_link_name_space(here.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(workers)
}

/// The namespaces that have pins.
fn namespaces() -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/sys/fs/bpf/steer/v{LAYOUT}"))? {
        count += usize::from(entry?.file_name().as_encoded_bytes().starts_with(b"net-"));
    }
    Ok(count)
}

#[test]
#[ignore = "privileged"]
fn a_namespace_that_is_gone_is_cleaned_up() -> anyhow::Result<()> {
    isolate()?;
    let gone = left_behind()?;
    let lives = left_behind()?;
    ensure!(namespaces()? == 2);
    for worker in gone {
        worker.kill()?;
    }
    let _here = workers::start(2, "127.0.0.1:3001")?;
    let mut attach = Attach::spawn(3001, "rr", &[])?;
    attach.wait_line(&texts::attach::removed(3000))?;
    attach.wait_line(texts::attach::STEERING)?;
    ensure!(namespaces()? == 2, "this one, and the one that lives");

    for worker in lives {
        worker.kill()?;
    }
    attach.end(Signal::KILL)?;
    let detached = steer(["detach", "--port", "3001"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    ensure!(
        detached.stderr.starts_with(&texts::attach::removed(3000)),
        "{detached:?}"
    );
    let status = steer(["status", "--port", "3001"])?;
    ensure!(status.code == Some(code::NOTHING), "{status:?}");
    nothing_is_left(3001, 2)
}

#[test]
#[ignore = "privileged"]
fn a_port_that_is_followed_or_used_is_left_alone() -> anyhow::Result<()> {
    isolate()?;
    let used = workers::start(2, "127.0.0.1:3002")?;
    Attach::start(3002, "rr", &[])?.end(Signal::KILL)?;
    // Followed, with nobody there at the moment.
    let closing = workers::start(1, "127.0.0.1:3003")?;
    let mut follower = Attach::start(3003, "rr", &[])?;
    for worker in closing {
        worker.kill()?;
    }
    // A worker that came after the steer was killed: it may be there still.
    let unknown = workers::start(1, "127.0.0.1:3004")?;
    Attach::start(3004, "rr", &[])?.end(Signal::KILL)?;
    let _late = Worker::start("127.0.0.1:3004", &[])?;
    for worker in unknown {
        worker.kill()?;
    }

    let _workers = workers::start(2, "127.0.0.1:3001")?;
    let mut attach = Attach::start(3001, "rr", &[])?;
    ensure!(
        !attach.said().contains(texts::attach::REMOVED),
        "{}",
        attach.said()
    );
    for port in ["3001", "3002", "3003", "3004"] {
        let status = steer(["status", "--port", port])?;
        ensure!(status.code == Some(0), "{port}: {status:?}");
    }
    drop(used);
    let ended = follower.end(Signal::TERM)?;
    ensure!(ended.success(), "{}", follower.said());
    attach.detach()
}
