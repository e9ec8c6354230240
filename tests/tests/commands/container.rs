//! Workers in a container: user, pid, mount and network namespaces of their own. steer in one of its own.

use std::{
    fs::{self, File},
    io::{PipeWriter, Write as _},
    os::fd::AsFd as _,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::ensure;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use steer_tests::{
    PORT, census,
    fixture::with_workers,
    isolate::{isolate, leftovers},
    net,
    process::{Output, Process, eventually},
    status::Status,
    steer::{Attach, built, code, nothing_is_left, steer},
    texts,
    workers::local,
};

const WORKERS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(10);

/// What runs in it: the workers, once there is a network.
const SCRIPT: &str = r#"read go; for worker in 1 2 3; do "$1" --bind 127.0.0.1:3000 & done; wait"#;

/// A container, which ends with the process that started it.
struct Container {
    process: Process,
    /// Its workers start when a line comes here.
    go: PipeWriter,
}

impl Container {
    fn start() -> anyhow::Result<Self> {
        let (stdin, go) = std::io::pipe()?;
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--net", "--mount", "--pid"])
            .args(["--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", SCRIPT, "sh"])
            .arg(built("STEER_TEST_WORKER", "steer-test-worker")?)
            .stdin(stdin);
        let process = Process::spawn(command, Output::Stdout)?;
        let mut container = Self { process, go };
        let own = fs::read_link("/proc/thread-self/ns/net")?;
        let path = container.namespace();
        let entered = eventually(PATIENCE, || {
            fs::read_link(&path).is_ok_and(|other| other != own)
        });
        ensure!(entered, "unshare made no network namespace");
        container.inside(net::loopback_up)?;
        writeln!(container.go, "go")?;
        for _ in 0..WORKERS {
            container.process.wait_line("listening", PATIENCE)?;
        }
        Ok(container)
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.process.pid())
    }

    /// Runs something in its network namespace.
    fn inside<T: Send>(&self, run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let namespace = File::open(self.namespace())?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                run()
            });
            inside.join().expect("the thread doesn't panic")
        })
    }
}

#[test]
#[ignore = "privileged"]
fn workers_in_a_container_are_steered_from_outside() -> anyhow::Result<()> {
    isolate()?;
    let container = Container::start()?;
    let netns = format!("pid:{}", container.process.pid());
    let attach = Attach::start(PORT, "rr", &["--netns", &netns])?;
    let seen = steer(["status", "--port", "3000", "--json", "--netns", &netns])?;
    let seen: Status = serde_json::from_str(&seen.stdout)?;
    // The pids are those that steer's /proc has: each is a worker of this machine.
    let seen = &seen.attachments[0].groups[0].workers;
    ensure!(seen.len() == WORKERS, "{seen:?}");
    for worker in seen {
        let comm = fs::read_to_string(format!("/proc/{}/comm", worker.pid))?;
        ensure!(comm.trim() == worker.comm, "{comm} {worker:?}");
    }
    let census = container.inside(|| census::one_by_one(local(PORT), 300))?;
    // Here they are those of the container.
    ensure!(
        census.answered() == 300 && census.served.values().all(|served| *served == 100),
        "{census:?}"
    );
    ensure!(census.served.len() == WORKERS, "{census:?}");
    attach.detach()?;
    let after = container.inside(|| census::takes_turns(local(PORT), WORKERS))?;
    ensure!(!after, "still steered");
    Ok(())
}

/// Neither sees the other's locks or pins: the program that is attached tells.
#[test]
#[ignore = "privileged"]
fn a_steer_in_a_container_keeps_its_port() -> anyhow::Result<()> {
    let workers = with_workers(WORKERS)?;
    let contained = Attach::start_contained(PORT, "rr", &[])?;
    for extra in [&[][..], &["--replace"]] {
        let args = [&["attach", "--port", "3000"][..], extra].concat();
        let refused = steer(args)?;
        ensure!(
            refused.code == Some(code::HELD)
                && refused.stderr.lines().count() == 1
                && refused.stderr.contains(texts::refused::BY_STEER_ELSEWHERE),
            "{refused:?}"
        );
        ensure!(leftovers()?.is_empty(), "left behind: {:?}", leftovers()?);
        ensure!(
            census::takes_turns(local(PORT), WORKERS)?,
            "not steered any more"
        );
    }
    let detached = steer(["detach", "--port", "3000"])?;
    ensure!(detached.code == Some(code::NOTHING), "{detached:?}");
    ensure!(
        census::takes_turns(local(PORT), WORKERS)?,
        "not steered any more"
    );
    contained.detach()?;
    nothing_is_left(PORT, workers.len())
}
