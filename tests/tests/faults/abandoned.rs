//! Programs that stay when a steer or its pins go: whose they are, who may take them, who ends them.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};
use steer_tests::{
    PORT,
    census::takes_turns,
    fixture::with_workers,
    isolate::isolate,
    pins::pinned,
    process::eventually,
    steer::{Attach, nothing_is_left, steer},
    texts,
    workers::{self, Worker, local, local6},
};

const WORKERS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(5);

const BPFFS: &str = "/sys/fs/bpf";

/// One group of the port is a living steer's of another container: --replace doesn't touch that one.
#[test]
#[ignore = "privileged"]
fn replace_leaves_the_group_of_another_steer() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start_both(WORKERS)?;
    let contained = Attach::start_contained(PORT, "rr", &["--bind", "::1"])?;
    let mut attach = Attach::spawn(PORT, "rr", &["--replace"])?;
    let warned = attach.wait_line(&texts::attach::steered_already("[::1]:3000"))?;
    ensure!(warned.contains(texts::attach::PINS_ELSEWHERE), "{warned}");
    attach.wait_line(&texts::attach::steering_workers("127.0.0.1:3000", WORKERS))?;
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered");
    ensure!(
        takes_turns(local6(PORT), WORKERS)?,
        "the other one's is gone"
    );
    attach.detach()?;
    ensure!(!takes_turns(local(PORT), WORKERS)?, "still steered");
    ensure!(
        takes_turns(local6(PORT), WORKERS)?,
        "the other one's is gone"
    );
    contained.detach()?;
    nothing_is_left(PORT, workers.len() / 2)
}

/// The pins of one port are gone, and those of another one, which have the same tracker, are not.
#[test]
#[ignore = "privileged"]
fn a_port_without_pins_beside_one_that_has_some() -> anyhow::Result<()> {
    let workers = with_workers(WORKERS)?;
    let _others = workers::start(WORKERS, "127.0.0.1:3001")?;
    let other = Attach::start(3001, "rr", &[])?;
    let lose_pins = || {
        let mut attach = Attach::start(PORT, "rr", &[])?;
        attach.end(Signal::KILL)?;
        fs::remove_dir_all(pinned(PORT)?).context("failed to remove the pins")
    };
    lose_pins()?;
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered");
    let mut attach = Attach::spawn(PORT, "rr", &[])?;
    attach.wait_line(&texts::attach::taking_the_place_of_program(
        "127.0.0.1:3000",
    ))?;
    attach.wait_line(&texts::attach::steering_workers("127.0.0.1:3000", WORKERS))?;
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered");
    attach.detach()?;
    lose_pins()?;
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    ensure!(!takes_turns(local(PORT), WORKERS)?, "still steered");
    ensure!(
        takes_turns(local(3001), WORKERS)?,
        "the other port's is gone"
    );
    other.detach()?;
    nothing_is_left(PORT, workers.len())
}

/// A steer whose bpffs was unmounted ends while another one has its pins in the next bpffs.
#[test]
#[ignore = "privileged"]
fn a_steer_of_an_unmounted_bpffs_leaves_the_next_one_alone() -> anyhow::Result<()> {
    isolate()?;
    let mount_bpffs = || mount("bpf", BPFFS, "bpf", MountFlags::empty(), None);
    mount_bpffs()?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let mut first = Attach::start(PORT, "rr", &[])?;
    unmount(BPFFS, UnmountFlags::DETACH)?;
    first.wait_line(&texts::warning(texts::attach::PINS_GONE))?;
    mount_bpffs()?;
    let mut others = workers::start(WORKERS, "127.0.0.1:3001")?;
    let second = Attach::start(3001, "rr", &[])?;
    first.detach()?;
    ensure!(!takes_turns(local(PORT), WORKERS)?, "still steered");
    others.push(Worker::start("127.0.0.1:3001", &[])?);
    let follows = eventually(PATIENCE, || {
        takes_turns(local(3001), others.len()).is_ok_and(|turns| turns)
    });
    ensure!(follows, "the second one doesn't hear of workers any more");
    second.detach()?;
    drop(others);
    nothing_is_left(PORT, workers.len())
}
