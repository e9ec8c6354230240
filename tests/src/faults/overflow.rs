//! Bursts that the accept queues just take, or don't.

use std::{fs, thread, time::Duration};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use steer_user::demo::client;

use super::Row;
use crate::{
    PORT, census,
    steer::Attach,
    workers::{self, Worker, local},
};

const WORKERS: usize = 4;

/// The limit of each accept queue. The kernel takes one more.
const BACKLOG: &str = "8";

/// What all queues take together.
const ROOM: usize = WORKERS * 9;

/// For how long nobody accepts: less than the second after which a dropped SYN comes again.
const STOPPED: Duration = Duration::from_millis(300);

/// An answer that took longer was to a SYN that had been dropped.
const LATE: Duration = Duration::from_millis(900);

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in [ROOM, 3 * ROOM] {
        let steered = burst(count, true)?;
        let hashed = burst(count, false)?;
        rows.extend([steered, hashed]);
    }
    let late = rows[0].later_than(LATE);
    rows[0].check(late == 0, "every place is used: no SYN is dropped");
    Ok(rows)
}

fn burst(count: usize, steered: bool) -> anyhow::Result<Row> {
    let by = if steered { "steer, rr" } else { "hash" };
    let mut row = Row::new(format!("{by}: {count} at once, room for {ROOM}"));
    let workers: Vec<Worker> = (0..WORKERS)
        .map(|_| Worker::start("127.0.0.1:3000", &["--backlog", BACKLOG]))
        .collect::<Result<_, _>>()?;
    let attach = steered
        .then(|| Attach::start(PORT, "rr", &[]))
        .transpose()?;
    signal_all(&workers, Signal::STOP)?;
    let dropped = drops()?;
    let target = census::root(local(PORT));
    let clients = thread::spawn(move || client::fire(&target, count));
    thread::sleep(STOPPED);
    signal_all(&workers, Signal::CONT)?;
    let shots = clients.join().ok().context("the client panicked")??;
    row.add(count, &shots);
    let dropped = drops()? - dropped;
    let late = row.later_than(LATE);
    if let Some(attach) = attach {
        attach.detach()?;
    }
    row.check(
        true,
        format!("{dropped} segments found a full queue, {late} answers came after more than 0.9 s"),
    );
    row.check_all_served();
    Ok(row)
}

fn signal_all(workers: &[Worker], signal: Signal) -> anyhow::Result<()> {
    for pid in workers::pids(workers) {
        kill_process(Pid::from_raw(pid as i32).context("a pid isn't 0")?, signal)?;
    }
    Ok(())
}

/// `ListenOverflows` of the network namespace.
fn drops() -> anyhow::Result<u64> {
    // /proc/net is that of the process's first thread.
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let place = names
        .and_then(|names| names.split(' ').position(|name| name == "ListenOverflows"))
        .context("no ListenOverflows in /proc/net/netstat")?;
    let value = values.and_then(|values| values.split(' ').nth(place));
    Ok(value.context("too few values")?.parse()?)
}
