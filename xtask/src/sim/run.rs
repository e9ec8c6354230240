//! All runs, side by side on the machine's processors.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use steer_common::{
    limits::MAX_SLOTS,
    sim::{
        Connection, Discipline, Mix, Outcome, Setting, Source, Waits, load, ns, one_after_another,
        simulate,
    },
};

use super::{args::Args, course, file, picture, row::Row, table};

/// Simulates, and prints the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    check(args)?;
    let workloads = workloads(args)?;
    if let (Some(recorded), Some((_, seeds))) = (&args.record, workloads.first()) {
        file::write(recorded, &seeds[0])?;
    }
    let cells: Vec<(usize, Discipline)> = (0..workloads.len())
        .flat_map(|load| args.by.iter().map(move |discipline| (load, *discipline)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut rows = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((load, discipline)) = cells.get(index).copied() else {
                return rows;
            };
            let (load, seeds) = &workloads[load];
            rows.push((index, row(args, *load, discipline, seeds)));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut rows: Vec<(usize, Row)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_default())
            .collect()
    });
    ensure!(
        rows.len() == cells.len(),
        "a run of the simulation panicked"
    );
    rows.sort_by_key(|(index, _)| *index);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    if args.json {
        table::print_json(&rows);
    } else {
        table::print(&rows);
    }
    if let Some(file) = &args.svg {
        picture::write(file, &title(args), &rows)?;
    }
    match &args.course {
        Some(file) => course::write(file, &rows),
        None => Ok(()),
    }
}

fn title(args: &Args) -> String {
    let workers = args.workers;
    match args.keep_alive {
        Some(requests) => format!(
            "First requests' waits: {workers} workers, 1 to {requests} requests a connection (simulated)"
        ),
        None => format!("Waits: {workers} workers, a connection for each request (simulated)"),
    }
}

fn check(args: &Args) -> Result<()> {
    ensure!(args.workers > 0, "there must be a worker");
    ensure!(args.seeds > 0, "there must be a seed");
    ensure!(args.clients > 0, "there must be a client");
    ensure!(
        args.load.iter().all(|load| *load > 0.0 && *load < 100.0),
        "a load is more than 0 % and less than 100 % of the capacity"
    );
    ensure!(
        args.workers <= MAX_SLOTS as usize
            || args
                .by
                .iter()
                .all(|discipline| discipline.policy().is_none()),
        "steer's policies take {MAX_SLOTS} workers at most: with more, use --by random,jsq,central"
    );
    Ok(())
}

/// The connections of every seed, for each load.
fn workloads(args: &Args) -> Result<Vec<(f64, Vec<Vec<Connection>>)>> {
    if let Some(recorded) = &args.arrivals {
        let connections = file::read(recorded)?;
        let load = load(&connections, args.workers, args.overhead);
        return Ok(vec![(load, vec![connections])]);
    }
    let default = if args.keep_alive.is_some() {
        20_000
    } else {
        100_000
    };
    let parts = 1 + args.then.len();
    let source = |mix: &Mix| Source {
        mix: mix.clone(),
        overhead: args.overhead,
        requests: args.keep_alive.unwrap_or(1).max(1),
        think: args.think,
        connections: args.connections.unwrap_or(default) / parts,
        workers: args.workers,
    };
    Ok(args
        .load
        .iter()
        .map(|percent| {
            let load = percent / 100.0;
            (
                load,
                (1..=args.seeds)
                    .map(|seed| {
                        let mixes = [&args.mix].into_iter().chain(&args.then);
                        one_after_another(mixes.map(|mix| source(mix).draw(load, seed)))
                    })
                    .collect(),
            )
        })
        .collect())
}

fn row(args: &Args, load: f64, discipline: Discipline, seeds: &[Vec<Connection>]) -> Row {
    let setting = Setting {
        workers: args.workers,
        discipline,
        overhead: ns(args.overhead),
        rtt: ns(args.rtt),
        clients: args.clients,
        stuck: args.stuck,
        stuck_for: ns(args.stuck_for),
        slow: args.slow,
        slow_by: args.slow_by,
        eject_after: ns(args.eject_after),
        off: args.off.clone(),
        measured_from: 0,
    };
    let mut outcomes: Vec<Outcome> = seeds
        .iter()
        .map(|connections| {
            let measured_from = connections.len() as u32 / 20;
            let setting = Setting {
                measured_from,
                ..setting.clone()
            };
            simulate(setting, connections)
        })
        .collect();
    let p99: Vec<f64> = outcomes
        .iter_mut()
        .map(|outcome| Waits::of(&mut outcome.first).p99)
        .collect();
    let mut first: Vec<u64> = outcomes
        .iter()
        .flat_map(|outcome| outcome.first.clone())
        .collect();
    let mut further: Vec<u64> = outcomes
        .iter()
        .flat_map(|outcome| outcome.further.clone())
        .collect();
    Row {
        load,
        discipline,
        course: course::means(
            &outcomes
                .iter()
                .map(|outcome| &outcome.course[..])
                .collect::<Vec<_>>(),
        ),
        first: Waits::of(&mut first),
        p99_range: (
            p99.iter().copied().fold(f64::INFINITY, f64::min),
            p99.iter().copied().fold(0.0, f64::max),
        ),
        further: (!further.is_empty()).then(|| Waits::of(&mut further)),
        most_open: outcomes
            .iter()
            .map(|outcome| outcome.most_open)
            .max()
            .unwrap_or(0),
        mean_open: outcomes
            .iter()
            .map(|outcome| outcome.mean_open)
            .sum::<f64>()
            / outcomes.len() as f64,
    }
}
