//! `steer status` shows what is so: whoever follows the port or nobody, what else listens there, and names as
//! they can be shown.

use std::net::TcpListener;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT,
    fixture::{steered, with_workers},
    isolate::isolate,
    status::Other,
    steer::{Attach, status, status_when, steer},
    texts,
    workers::{self, Worker, are_live},
};

#[test]
#[ignore = "privileged"]
fn status_tells_the_truth_without_a_loader() -> anyhow::Result<()> {
    let (mut workers, mut attach) = steered(3, "rr", &[])?;
    attach.end(Signal::KILL)?;
    let _newcomer = Worker::start("127.0.0.1:3000", &[])?;
    let gone = workers.remove(0);
    let gone_pid = gone.pid();
    gone.kill()?;
    let seen = status(PORT)?;
    ensure!(seen.loader_pid.is_none(), "{seen:?}");
    ensure!(
        seen.unsteered() == 1,
        "the newcomer isn't steered: {seen:?}"
    );
    let live: Vec<_> = seen.live().map(|worker| worker.pid).collect();
    ensure!(
        !live.contains(&gone_pid),
        "pid {gone_pid} is gone: {seen:?}"
    );
    ensure!(live.len() == 2, "{seen:?}");
    Ok(())
}

/// One alone, and two of another user, beside the steered ones: said at attach and shown.
#[test]
#[ignore = "privileged"]
fn other_listeners_on_the_port_are_shown() -> anyhow::Result<()> {
    let workers = with_workers(2)?;
    let _alone = TcpListener::bind("127.0.0.2:3000")?;
    let mut attach = Attach::start(PORT, "rr", &["--bind", "127.0.0.1"])?;
    let _others = workers::start(2, "127.0.0.3:3000")?;
    let seen = status_when(PORT, |seen| {
        seen.others.as_ref().is_some_and(|others| others.len() == 2)
    })?;
    are_live(&workers, &seen)?;
    let other = |address: &str, listeners| Other {
        device: None,
        address: address.to_owned(),
        uid: 0,
        listeners,
    };
    let expected = [other("127.0.0.2:3000", 1), other("127.0.0.3:3000", 2)];
    ensure!(seen.others.as_deref() == Some(&expected), "{seen:?}");
    let shown = steer(["status"])?.stdout;
    ensure!(
        shown.contains(&texts::status::not_steered_one("127.0.0.2:3000", 0)),
        "{shown}"
    );
    ensure!(attach.end(Signal::TERM)?.code() == Some(0));

    let mut attach = Attach::start(PORT, "rr", &[])?;
    status_when(PORT, |seen| {
        seen.others.as_deref() == Some(&expected[..1]) && seen.groups.len() == 2
    })?;
    let said = attach.said();
    let words = texts::attach::cant_be_steered("127.0.0.2:3000");
    ensure!(texts::has_all(&said, &words), "{said}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn listeners_of_one_process() -> anyhow::Result<()> {
    isolate()?;
    let one = Worker::start("127.0.0.1:3000", &["--bind", "127.0.0.1:3000"])?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let seen = status(PORT)?;
    let mut descriptors: Vec<i32> = seen.live().map(|worker| worker.fd).collect();
    descriptors.sort_unstable();
    descriptors.dedup();
    ensure!(descriptors.len() == 2, "{seen:?}");
    let table = steer(["status"])?.stdout;
    for fd in descriptors {
        let row = texts::status::worker_of_several(one.pid(), fd);
        ensure!(table.contains(&row), "{row:?} in {table}");
    }
    attach.detach()?;
    one.stop()?;
    // Where nothing is to be told apart there is no such column.
    let _several = workers::start(2, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let table = steer(["status"])?.stdout;
    let head = table
        .lines()
        .find(|line| line.contains(texts::status::COLUMN_SLOT));
    let head = head.context("a table")?;
    ensure!(!head.contains(texts::status::COLUMN_DESCRIPTOR), "{head}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_workers_name_is_shown_escaped() -> anyhow::Result<()> {
    isolate()?;
    let evil = "\u{1b}[31mred\nrow";
    let workers = [
        Worker::start("127.0.0.1:3000", &["--name", evil])?,
        Worker::start("127.0.0.1:3000", &["--name", evil])?,
    ];
    let mut attach = Attach::start(PORT, "rr", &[])?;
    let table = steer(["status", "--port", "3000"])?;
    ensure!(table.code == Some(0), "{table:?}");
    let said = format!("{}{}{}", table.stdout, table.stderr, attach.said());
    ensure!(!said.contains('\u{1b}'), "{said:?}");
    for worker in &workers {
        let pid = worker.pid().to_string();
        let row = table.stdout.lines().find(|line| line.contains(&pid));
        let row = row.with_context(|| format!("no pid {pid} in {}", table.stdout))?;
        ensure!(
            row.contains("red") && row.contains("row"),
            "torn apart: {row}"
        );
    }
    // JSON has escapes of its own.
    let seen = status(PORT)?;
    ensure!(seen.live().count() == 2, "{seen:?}");
    attach.detach()
}
