//! What steer takes on a host where very many sockets are open, and on one where many ports are steered.
//!
//! Processor time is that of the `steer attach` itself, as the scheduler has it.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use steer_common::slot::SlotState;
use steer_tests::{
    PORT,
    churn::monitor::groups,
    isolate::isolate,
    process::{Output, Process, eventually},
    steer::{Attach, status},
    workers::{self, Worker},
};

/// Sockets that are open besides, of TCP connections in other network namespaces.
const SOCKETS: u64 = 200_000;
/// Processes that have them.
const HOLDERS: u64 = 50;
/// Ports that are steered.
const PORTS: u16 = 64;
/// Workers before one joins.
const WORKERS: usize = 4;
/// How often each is measured.
const TIMES: usize = 3;
/// After this a loader has looked at everything that it looks at later.
const CALM: Duration = Duration::from_millis(1500);

/// Each as a line of a table.
pub(crate) fn measure() -> anyhow::Result<String> {
    let mut table =
        String::from("| what | processor, ms | until it holds, ms |\n|---|---:|---:|\n");
    let sockets = sockets()?;
    writeln!(table, "| **{SOCKETS} sockets are open besides** | | |")?;
    for _ in 0..TIMES {
        one_port(&mut table)?;
    }
    drop(sockets);
    many_ports(&mut table)?;
    Ok(table)
}

/// Processes that have them open between them.
fn sockets() -> anyhow::Result<Vec<Process>> {
    let hold = || {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--hold").arg((SOCKETS / HOLDERS).to_string());
        let mut process = Process::spawn(command, Output::Stdout)?;
        process.wait_line("holding", Duration::from_secs(20))?;
        Ok(process)
    };
    (0..HOLDERS).map(|_| hold()).collect()
}

/// Opens that many sockets, two for a connection, in a network namespace of its own, and keeps them until it is killed.
pub(crate) fn hold(count: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, limit).context("failed to allow more open files")?;
    isolate()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let connect = |_| Ok((TcpStream::connect(address)?, listener.accept()?.0));
    let connections: Vec<(TcpStream, TcpStream)> = (0..count / 2)
        .map(connect)
        .collect::<io::Result<_>>()
        .context("failed to open sockets")?;
    writeln!(io::stdout(), "holding {}", 2 * connections.len())?;
    loop {
        thread::park();
    }
}

fn one_port(table: &mut String) -> anyhow::Result<()> {
    let mut workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    let begin = Instant::now();
    let attach = Attach::start(PORT, "least", &[])?;
    let took = begin.elapsed();
    let pid = attach.pid();
    row(table, "attach", processor(pid)?, Some(took))?;
    let mut change = |what: &str, change: &mut dyn FnMut() -> anyhow::Result<usize>| {
        thread::sleep(CALM);
        let before = processor(pid)?;
        let live = change()?;
        let begin = Instant::now();
        steered(PORT, live)?;
        let took = begin.elapsed();
        let at_once = processor(pid)?.saturating_sub(before);
        thread::sleep(CALM);
        row(table, what, at_once, Some(took))?;
        row(
            table,
            "- the later look",
            processor(pid)?.saturating_sub(before + at_once),
            None,
        )
    };
    change("a worker joins", &mut || {
        workers.push(Worker::start("127.0.0.1:3000", &[])?);
        Ok(workers.len())
    })?;
    change("a worker ends", &mut || {
        workers.remove(0).kill()?;
        Ok(workers.len())
    })?;
    let begin = Instant::now();
    status(PORT)?;
    writeln!(table, "| `steer status` | | {:.0} |", ms(begin.elapsed()))?;
    let begin = Instant::now();
    attach.detach()?;
    writeln!(table, "| detach | | {:.0} |", ms(begin.elapsed()))?;
    Ok(())
}

fn many_ports(table: &mut String) -> anyhow::Result<()> {
    writeln!(table, "| **{PORTS} ports are steered** | | |")?;
    let ports = || PORT..PORT + PORTS;
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut workers = Vec::new();
    for port in ports() {
        workers.push(Worker::start(&address(port), &[])?);
    }
    let begin = Instant::now();
    let attaches = ports()
        .map(|port| Attach::start(port, "least", &[]))
        .collect::<Result<Vec<_>, _>>()?;
    let took = begin.elapsed() / u32::from(PORTS);
    thread::sleep(CALM);
    let all = || {
        attaches
            .iter()
            .map(|attach| processor(attach.pid()))
            .sum::<Result<Duration, _>>()
    };
    let each = all()? / u32::from(PORTS);
    row(table, "attach, each, one after the other", each, Some(took))?;
    let before = all()?;
    workers.push(Worker::start(&address(PORT), &[])?);
    let begin = Instant::now();
    steered(PORT, 2)?;
    let took = begin.elapsed();
    thread::sleep(CALM);
    row(
        table,
        "a worker joins, all loaders, with the later look",
        all()?.saturating_sub(before),
        Some(took),
    )?;
    let begin = Instant::now();
    status(PORT)?;
    writeln!(
        table,
        "| `steer status --port` | | {:.0} |",
        ms(begin.elapsed())
    )?;
    let (mut own, mut most) = (0, 0);
    for attach in &attaches {
        let size = anonymous(attach.pid())?;
        own += size;
        most = most.max(size);
    }
    for attach in attaches {
        attach.detach()?;
    }
    writeln!(
        table,
        "\nMemory of {PORTS} loaders of their own: {own} KiB, the largest {most} KiB."
    )?;
    Ok(())
}

/// Waits until that many workers of a port are live in the maps.
fn steered(port: u16, workers: usize) -> anyhow::Result<()> {
    let live = || -> anyhow::Result<usize> {
        let slots = groups(port)?.into_iter().flat_map(|group| group.slots);
        Ok(slots
            .filter(|(_, slot, _)| slot.state == SlotState::Live as u32)
            .count())
    };
    let holds = eventually(Duration::from_secs(5), || {
        live().is_ok_and(|live| live == workers)
    });
    ensure!(holds, "not {workers} workers of port {port}");
    Ok(())
}

/// What a process has used so far. Its one thread that does anything is the first.
fn processor(pid: u32) -> anyhow::Result<Duration> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let used = schedstat.split(' ').next().context("an empty schedstat")?;
    Ok(Duration::from_nanos(used.parse()?))
}

fn anonymous(pid: u32) -> anyhow::Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = maps
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(size.context("no size")?.trim().parse()?)
}

fn row(
    table: &mut String,
    what: &str,
    used: Duration,
    took: Option<Duration>,
) -> anyhow::Result<()> {
    let took = took
        .map(|took| format!("{:.1}", ms(took)))
        .unwrap_or_default();
    writeln!(table, "| {what} | {:.1} | {took} |", ms(used))?;
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    1000.0 * duration.as_secs_f64()
}
