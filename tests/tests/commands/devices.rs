//! Listeners that are bound to a network device, and what tells groups and listeners apart that look alike.

use std::{net::UdpSocket, process::Command};

use anyhow::ensure;
use rustix::process::Signal;
use steer_tests::{
    PORT, census,
    isolate::isolate,
    net,
    skip::{Skip, skip},
    status::Status,
    steer::{Attach, Finished, binary, code, nothing_is_left, run, status, steer},
    texts,
    workers::{self, Worker, local},
};
use steer_user::sys::sockdiag;

fn attach_at_once(bind: &str) -> anyhow::Result<Finished> {
    steer(["attach", "--port", "3000", "--no-wait", "--bind", bind])
}

#[test]
#[ignore = "privileged"]
fn one_of_two_groups_that_differ_by_device() -> anyhow::Result<()> {
    isolate()?;
    let _free = Worker::start("127.0.0.1:3000", &[])?;
    let bound = || Worker::start("127.0.0.1:3000", &["--device", "lo"]);
    let bound = [bound()?, bound()?, bound()?];
    let mut attach = Attach::spawn(PORT, "rr", &["--bind", "127.0.0.1%lo"])?;
    let line = attach.wait_line(texts::attach::STEERING)?;
    ensure!(
        line.contains(&texts::attach::steering_workers("127.0.0.1%lo:3000", 3)),
        "{line}"
    );
    // The kernel prefers them for what comes by their device.
    census::one_by_one(local(PORT), 30)?.exactly(&workers::pids(&bound), 10)?;
    let seen = status(PORT)?;
    let [group] = seen.groups.as_slice() else {
        anyhow::bail!("not one group: {seen:?}");
    };
    ensure!(group.device.as_deref() == Some("lo"), "{seen:?}");
    let others = seen.others.clone().unwrap_or_default();
    ensure!(
        others.len() == 1 && others[0].device.is_none() && others[0].address == group.address,
        "{seen:?}"
    );
    let table = steer(["status"])?.stdout;
    for line in [
        texts::status::steered_group("127.0.0.1%lo:3000"),
        texts::status::not_steered("127.0.0.1:3000"),
    ] {
        ensure!(table.contains(&line), "{table}");
    }
    // Another network namespace has other devices.
    let mut elsewhere = Command::new("unshare");
    elsewhere
        .arg("--net")
        .arg(binary()?)
        .args(["status", "--json"]);
    let elsewhere: Status = serde_json::from_str(&run(elsewhere)?.stdout)?;
    let device = &elsewhere.attachments[0].groups[0].device;
    ensure!(device.as_deref() == Some("1"), "{elsewhere:?}");
    attach.detach()?;
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn an_address_of_a_link() -> anyhow::Result<()> {
    isolate()?;
    net::link_address("fe80::7".parse()?)?;
    let address = "[fe80::7%1]:3000";
    let workers = workers::start(2, address)?;
    let attach = Attach::start(PORT, "rr", &["--bind", "fe80::7%lo"])?;
    let connections = census::one_by_one(address.parse()?, 20)?;
    connections.exactly(&workers::pids(&workers), 10)?;
    let table = steer(["status"])?.stdout;
    ensure!(
        table.contains(&texts::status::group("[fe80::7]%lo:3000")),
        "{table}"
    );
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_device_alone_and_one_that_is_not_there() -> anyhow::Result<()> {
    isolate()?;
    let free = Worker::start("127.0.0.1:3000", &[])?;
    // No listener has that device, this one isn't there, and that is none.
    for (bind, code, word) in [
        ("%lo", code::NOTHING, texts::refused::no_device("lo")),
        (
            "127.0.0.1%lo",
            code::NOTHING,
            texts::refused::no_address("127.0.0.1%lo"),
        ),
        (
            "127.0.0.1%steer8",
            code::NOTHING,
            texts::refused::bind_names("steer8"),
        ),
        (
            "127.0.0.1%",
            code::USAGE,
            texts::refused::DEVICE_EXAMPLE.to_owned(),
        ),
    ] {
        let refused = attach_at_once(bind)?;
        ensure!(refused.code == Some(code), "{bind}: {refused:?}");
        let mut lines = refused.stderr.lines();
        ensure!(lines.any(|line| line.contains(&word)), "{refused:?}");
    }
    let _workers = [
        free,
        Worker::start("127.0.0.1:3000", &["--device", "lo"])?,
        Worker::start("0.0.0.0:3000", &["--device", "lo"])?,
    ];
    let mut attach = Attach::start(PORT, "rr", &["--bind", "%lo"])?;
    attach.wait_line(texts::attach::STEERING)?;
    let seen = status(PORT)?;
    ensure!(seen.groups.len() == 2, "{seen:?}");
    ensure!(seen.others.as_ref().map(Vec::len) == Some(1), "{seen:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_port_of_udp() -> anyhow::Result<()> {
    isolate()?;
    if sockdiag::has_udp(PORT).is_err() {
        let lacks = "sock_diag for UDP";
        return skip("a_port_of_udp", &Skip::Kernel { lacks });
    }
    let _quic = UdpSocket::bind("127.0.0.1:3000")?;
    let ask = [
        &["attach", "--no-wait", "--port", "3000"][..],
        &["status", "--port", "3000"],
        &["detach", "--port", "3000"],
    ];
    for args in ask {
        let finished = steer(args)?;
        ensure!(finished.code == Some(code::NOTHING), "{finished:?}");
        ensure!(
            finished.stderr.contains(texts::refused::UDP),
            "{finished:?}"
        );
    }
    let mut waiting = Attach::spawn(PORT, "rr", &[])?;
    let line = waiting.wait_line(texts::attach::WAITING)?;
    ensure!(line.contains(texts::refused::UDP), "{line}");
    ensure!(waiting.end(Signal::TERM)?.success());
    // HTTP/3 beside HTTP/2 is nothing to wonder at, nor is a client's port.
    let worker = Worker::start("127.0.0.1:3000", &[])?;
    let beside = steer(["status", "--port", "3000"])?;
    ensure!(beside.code == Some(code::NOTHING), "{beside:?}");
    ensure!(
        !beside.stderr.contains(texts::refused::UDP_WORD),
        "{beside:?}"
    );
    worker.stop()?;
    let client = UdpSocket::bind("127.0.0.1:3001")?;
    client.connect("127.0.0.1:3000")?;
    let of_client = steer(["status", "--port", "3001"])?;
    ensure!(
        !of_client.stderr.contains(texts::refused::UDP_WORD),
        "{of_client:?}"
    );
    Ok(())
}
