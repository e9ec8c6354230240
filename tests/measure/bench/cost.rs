//! What a run of steer's programs costs.

use std::{fmt::Write as _, net::SocketAddrV4};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_common::{
    limits::MAX_SLOTS,
    names::{PROGRAM_READS, PROGRAM_SELECT, PROGRAM_TRACK, TRACEPOINT, TRACEPOINT_READS},
    policy::Policy,
};
use steer_tests::{
    PORT,
    packet::{Flags, Sender, stranger},
    server::Server,
    steer::{Attach, steer},
};

use crate::{
    stats::{self, Runs, Steers},
    summary::Summary,
    trivial::Trivial,
};

/// Measurements of each case.
const BATCHES: usize = 20;
/// Connections of one measurement.
const CONNECTIONS: usize = 1000;
/// Connections before the first one.
const WARM_UP: usize = 200;
/// Handshakes that each worker has pending in the case of that name.
const PENDING: usize = 4;
/// The port of a server that is none of steer's business.
const FOREIGN_PORT: u16 = 4000;
/// How many ports are steered while a port that isn't is measured.
const STEERED_PORTS: [usize; 3] = [1, 8, 64];
/// Workers of a group; the last is as many as steer takes.
const GROUPS: [usize; 4] = [3, 8, 64, MAX_SLOTS as usize];

/// Which of steer's programs, or the one that does nothing in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Select,
    Track,
    Reads,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Select => PROGRAM_SELECT,
            Self::Track => PROGRAM_TRACK,
            Self::Reads => PROGRAM_READS,
        }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    program: Program,
    case: String,
    /// Nanoseconds a run, one value a batch.
    nanoseconds: Summary,
    /// Runs in all batches.
    runs: u64,
}

/// Measures every case; the first one of each program is its floor.
pub(crate) fn measure() -> anyhow::Result<Vec<Cost>> {
    let _statistics = stats::on()?;
    let mut costs = Vec::new();
    floors(&mut costs)?;
    for policy in Policy::ALL {
        for workers in GROUPS {
            steered(policy, workers, &mut costs)?;
        }
    }
    for workers in GROUPS {
        pending(workers, &mut costs)?;
    }
    answered(&mut costs)?;
    abandoned(&mut costs)?;
    foreign(&mut costs)?;
    Ok(costs)
}

/// The cases as a table, a program after the other.
pub(crate) fn table(costs: &[Cost]) -> String {
    let mut table = format!(
        "Nanoseconds a run by the kernel's statistics: median [quartiles] of {BATCHES} batches of\n\
         {CONNECTIONS} connections or requests each, the same above the floor, and runs of each.\n\n\
         {:<8}{:<46}{:>7}{:>14}{:>7}{:>6}\n",
        "", "", "median", "[quartiles]", "above", "runs"
    );
    for program in [Program::Select, Program::Track, Program::Reads] {
        let own = || costs.iter().filter(|cost| cost.program == program);
        let floor = own().next().map_or(0.0, |floor| floor.nanoseconds.median);
        for cost in own() {
            let Summary { low, median, high } = cost.nanoseconds;
            let range = format!("[{low:.0}, {high:.0}]");
            let above = median - floor;
            let runs = cost.runs as f64 / (BATCHES * CONNECTIONS) as f64;
            // Writing to a String can't fail.
            let _ = writeln!(
                table,
                "{:<8}{:<46}{median:>7.0}{range:>14}{above:>7.0}{runs:>6.2}",
                program.name(),
                cost.case
            );
        }
    }
    table
}

fn floors(costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let server = Server::start(PORT, 3)?;
    let listener = server.any().context("no listener")?;
    let select = Trivial::on_group(listener)?;
    let track = Trivial::on_tracepoint(TRACEPOINT)?;
    let case = || "floor: a program that returns at once".to_owned();
    let cases = [
        (Program::Select, select.id, case()),
        (Program::Track, track.id, case()),
    ];
    measure_cases(&server, cases, costs)?;
    drop(track);
    let reads = Trivial::on_tracepoint(TRACEPOINT_READS)?;
    let mut kept = server.connect()?;
    let requests = |count| Ok(kept.requests(count)?);
    measure_by(requests, [(Program::Reads, reads.id, case())], costs)
}

/// With a request on each connection, and many on one.
fn answered(costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let server = Server::start(PORT, 8)?;
    let attach = Attach::start(PORT, Policy::Least.name(), &[])?;
    let programs = Steers::find()?;
    let case = || "least, 8 workers, a request a connection".to_owned();
    let both = [
        (Program::Select, programs.select, case()),
        (Program::Track, programs.track, case()),
    ];
    measure_by(|count| server.exchanges(count), both, costs)?;
    if let Some(reads) = programs.reads {
        let reads_of = |case: &str| [(Program::Reads, reads, case.to_owned())];
        measure_by(|count| server.exchanges(count), reads_of(&case()), costs)?;
        let mut kept = server.connect()?;
        let requests = |count| Ok(kept.requests(count)?);
        measure_by(
            requests,
            reads_of("least, 8 workers, requests on one connection"),
            costs,
        )?;
        let foreign = Server::start(FOREIGN_PORT, 1)?;
        let mut kept = foreign.connect()?;
        let requests = |count| Ok(kept.requests(count)?);
        measure_by(
            requests,
            reads_of("requests on a port that isn't steered"),
            costs,
        )?;
    }
    attach.detach()
}

fn steered(policy: Policy, workers: usize, costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let policy = policy.name();
    let server = Server::start(PORT, workers)?;
    let attach = Attach::start(PORT, policy, &[])?;
    let programs = Steers::find()?;
    let case = || format!("{policy}, {workers} workers");
    let cases = [
        (Program::Select, programs.select, case()),
        (Program::Track, programs.track, case()),
    ];
    measure_cases(&server, cases, costs)?;
    attach.detach()
}

/// The dearest choice that `least` makes: every worker has handshakes pending, so that no count of
/// connections tells that it can't be the best one, and each is asked for its handshakes.
fn pending(workers: usize, costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let server = Server::start(PORT, workers)?;
    let attach = Attach::start(PORT, Policy::Least.name(), &[])?;
    let programs = Steers::find()?;
    let sender = Sender::new()?;
    let to = SocketAddrV4::new([127, 0, 0, 1].into(), PORT);
    for number in 0..workers * PENDING {
        sender.send(stranger(number as u32), to, Flags::Syn)?;
    }
    let case = format!("least, {workers} workers, all with handshakes");
    measure_cases(&server, [(Program::Select, programs.select, case)], costs)?;
    attach.detach()
}

/// steer was killed and a worker joined since: each selection works out whether the hash would
/// choose the one that steer doesn't have.
fn abandoned(costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let mut server = Server::start(PORT, 8)?;
    let mut attach = Attach::start(PORT, Policy::Rr.name(), &[])?;
    let programs = Steers::find()?;
    attach.end(Signal::KILL)?;
    server.join()?;
    let case = "rr, 8 workers, one more since steer was killed".to_owned();
    measure_cases(&server, [(Program::Select, programs.select, case)], costs)?;
    let detached = steer(["detach", "--port", &PORT.to_string()])?;
    ensure!(
        detached.code == Some(0),
        "steer detach failed: {detached:?}"
    );
    Ok(())
}

/// The tracker sees every TCP socket of the host, however many ports are steered.
fn foreign(costs: &mut Vec<Cost>) -> anyhow::Result<()> {
    let server = Server::start(FOREIGN_PORT, 1)?;
    let mut steered = Vec::new();
    for ports in STEERED_PORTS {
        while steered.len() < ports {
            let port = FOREIGN_PORT + 1 + steered.len() as u16;
            let server = Server::start(port, 3)?;
            steered.push((server, Attach::start(port, Policy::Least.name(), &[])?));
        }
        let programs = Steers::find()?;
        let case = match ports {
            1 => "a port that isn't steered, 1 port is".to_owned(),
            _ => format!("a port that isn't steered, {ports} ports are"),
        };
        measure_cases(&server, [(Program::Track, programs.track, case)], costs)?;
    }
    steered
        .into_iter()
        .try_for_each(|(_, attach)| attach.detach())
}

/// Measures several programs over the same connections.
fn measure_cases<const N: usize>(
    server: &Server,
    cases: [(Program, u32, String); N],
    costs: &mut Vec<Cost>,
) -> anyhow::Result<()> {
    measure_by(|count| server.connections(count), cases, costs)
}

/// Measures several programs over what makes so many connections or requests.
fn measure_by<const N: usize>(
    mut make: impl FnMut(usize) -> anyhow::Result<()>,
    cases: [(Program, u32, String); N],
    costs: &mut Vec<Cost>,
) -> anyhow::Result<()> {
    make(WARM_UP)?;
    let mut batches = [const { Vec::new() }; N];
    for _ in 0..BATCHES {
        let mut before = [Runs::default(); N];
        for (runs, (_, id, _)) in before.iter_mut().zip(&cases) {
            *runs = stats::runs(*id)?;
        }
        make(CONNECTIONS)?;
        for ((batch, before), (_, id, _)) in batches.iter_mut().zip(before).zip(&cases) {
            batch.push(stats::runs(*id)? - before);
        }
    }
    for (batch, (program, _, case)) in batches.into_iter().zip(cases) {
        let nanoseconds = Summary::of(batch.iter().filter_map(|runs| runs.mean()))
            .with_context(|| format!("no run was counted of {case}"))?;
        let runs = batch.iter().map(|runs| runs.count).sum();
        costs.push(Cost {
            program,
            case,
            nanoseconds,
            runs,
        });
    }
    Ok(())
}
