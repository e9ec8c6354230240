//! Programs that stay when a steer or its pins go: whose they are, who may take them, who ends them.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};
use steer_common::names::LAYOUT;
use steer_tests::{
    PORT,
    census::takes_turns,
    isolate::{isolate, leftovers},
    process::eventually,
    steer::{Attach, binary, code, nothing_is_left, run, steer},
    texts,
    workers::{self, Worker, local},
};

const WORKERS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(5);

const BPFFS: &str = "/sys/fs/bpf";

/// The port's other group.
fn local6() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], PORT))
}

fn both_groups() -> anyhow::Result<Vec<Worker>> {
    let mut workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    workers.extend(workers::start(WORKERS, "[::1]:3000")?);
    Ok(workers)
}

/// Where the only attachment of a port is pinned.
fn pinned(port: u16) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(format!("{BPFFS}/steer/v{LAYOUT}"))? {
        let dir = entry?.path().join(format!("tcp-{port}"));
        if dir.exists() {
            return Ok(dir);
        }
    }
    anyhow::bail!("nothing is pinned for port {port}")
}

/// One group of the port is a living steer's of another container: --replace doesn't touch that one.
#[test]
#[ignore = "privileged"]
fn replace_leaves_the_group_of_another_steer() -> anyhow::Result<()> {
    isolate()?;
    let workers = both_groups()?;
    let contained = Attach::start_contained(PORT, "rr", &["--bind", "::1"])?;
    let mut attach = Attach::spawn(PORT, "rr", &["--replace"])?;
    let warned = attach.wait_line(&texts::attach::steered_already("[::1]:3000"))?;
    ensure!(warned.contains(texts::attach::PINS_ELSEWHERE), "{warned}");
    attach.wait_line(&texts::attach::steering_workers("127.0.0.1:3000", WORKERS))?;
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered");
    ensure!(takes_turns(local6(), WORKERS)?, "the other one's is gone");
    attach.detach()?;
    ensure!(!takes_turns(local(PORT), WORKERS)?, "still steered");
    ensure!(takes_turns(local6(), WORKERS)?, "the other one's is gone");
    contained.detach()?;
    nothing_is_left(PORT, workers.len() / 2)
}

/// Both groups of a port have a program of a killed steer, only one of which has pins here.
#[test]
#[ignore = "privileged"]
fn detach_ends_what_has_pins_and_what_has_none() -> anyhow::Result<()> {
    isolate()?;
    let _workers = both_groups()?;
    let mut contained = Attach::start_contained(PORT, "rr", &["--bind", "::1"])?;
    contained.end(Signal::KILL)?;
    let mut attach = Attach::start(PORT, "rr", &["--bind", "127.0.0.1"])?;
    attach.end(Signal::KILL)?;
    ensure!(takes_turns(local(PORT), WORKERS)? && takes_turns(local6(), WORKERS)?);
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    ensure!(!takes_turns(local(PORT), WORKERS)?, "still steered");
    ensure!(!takes_turns(local6(), WORKERS)?, "still steered");
    ensure!(leftovers()?.is_empty(), "left behind: {:?}", leftovers()?);
    Ok(())
}

/// Where no process with a listener is to be seen nothing can be detached: that is said, and all is left as
/// it is, for one that sees them.
#[test]
#[ignore = "privileged"]
fn detach_says_where_it_sees_no_worker() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let mut attach = Attach::start(PORT, "rr", &["--keep"])?;
    attach.end(Signal::TERM)?;
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    command.arg(binary()?).args(["detach", "--port", "3000"]);
    let refused = run(command)?;
    ensure!(
        refused.code == Some(code::FAILURE)
            && refused.stderr.lines().count() == 1
            && refused
                .stderr
                .contains(texts::refused::IN_HOSTS_PID_NAMESPACE),
        "{refused:?}"
    );
    ensure!(takes_turns(local(PORT), WORKERS)?, "not steered any more");
    ensure!(steer(["status", "--port", "3000"])?.code == Some(0));
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(0), "{detached:?}");
    nothing_is_left(PORT, workers.len())
}

/// The pins of one port are gone, and those of another one, which have the same tracker, are not.
#[test]
#[ignore = "privileged"]
fn a_port_without_pins_beside_one_that_has_some() -> anyhow::Result<()> {
    isolate()?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
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
