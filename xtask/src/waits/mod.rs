//! `cargo xtask bench-waits`: how long real workers make connections wait, beside the simulator on
//! the same recorded arrivals.
//!
//! The program `steer-waits` measures, one run at a time and as root. All else is done here.

mod args;
mod arrivals;
mod bounds;
mod cell;
mod real;
mod table;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use steer_common::sim::{Connection, Discipline};
use xtask::{say, workspace};

use crate::sim;

pub(crate) use args::Args;

use self::{
    arrivals::Drawing,
    cell::{Cell, Rig},
    real::Program,
};

/// What is simulated in addition to the measured runs.
const SIMULATED: [Discipline; 4] = [
    Discipline::Random,
    Discipline::Least,
    Discipline::Jsq,
    Discipline::Central,
];

/// The connections that one seed makes at one load.
struct Arrivals {
    seed: u64,
    file: PathBuf,
    connections: Vec<Connection>,
    /// The index of the first connection after the warm-up.
    measured_from: usize,
}

/// Measures, simulates, prints and judges.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.check()?;
    let program = Program::build(args.workers)?;
    let overhead = calibrate(args, &program)?;
    let drawing = Drawing::new(args, args.seconds);
    let rig = Rig {
        workers: args.workers,
        overhead,
        capacity: args.workers as f64 / (args.mix.mean() + overhead) * 1000.0,
    };
    say::step(format_args!(
        "a request takes {overhead:.3} ms on top of its service time; {} workers have a capacity of {:.0} requests/s",
        rig.workers, rig.capacity
    ));
    let mut cells = Vec::new();
    let mut failures = Vec::new();
    for load in &args.load {
        let seeds = (1..=args.seeds)
            .map(|seed| record(&drawing, overhead, *load, seed))
            .collect::<Result<Vec<Arrivals>>>()?;
        let mut measured: Vec<Cell> = args
            .by
            .iter()
            .map(|by| Cell::measured(*load, *by))
            .collect();
        for arrivals in &seeds {
            for cell in &mut measured {
                let what = format!("{load} % load, seed {}, {}", arrivals.seed, cell.name());
                say::step(format_args!(
                    "{what}: {} connections",
                    arrivals.connections.len()
                ));
                let report = program.run(&arrivals.file, cell.policy())?;
                failures.extend(
                    report
                        .failures(arrivals.connections.len())
                        .map(|failure| format!("{what}: {failure}")),
                );
                cell.add(&report, arrivals.measured_from);
            }
        }
        cells.extend(measured);
        cells.extend(SIMULATED.map(|by| Cell::simulated(*load, by, &rig, &seeds)));
    }
    let bounds = bounds::judge(&cells, args.keep_alive.is_some());
    if args.json {
        table::print_json(&rig, &cells, &bounds, &failures);
    } else {
        table::print(&rig, &cells, &bounds);
    }
    ensure!(
        failures.is_empty(),
        "not all was well: {}",
        failures.join("; ")
    );
    let missed = bounds.iter().filter(|bound| !bound.holds).count();
    ensure!(missed == 0, "{missed} of {} bounds missed", bounds.len());
    Ok(())
}

/// How long a worker takes for a request on top of its service time, in ms.
fn calibrate(args: &Args, program: &Program) -> Result<f64> {
    say::step("calibrating: high load under the kernel's hash");
    let drawing = Drawing::new(args, args.seconds.min(args::CALIBRATION));
    let arrivals = record(&drawing, 0.0, args::CALIBRATION_LOAD, 0)?;
    let report = program.run(&arrivals.file, None)?;
    let failures: Vec<String> = report.failures(arrivals.connections.len()).collect();
    ensure!(failures.is_empty(), "calibration: {}", failures.join("; "));
    report.overhead()
}

/// Draws connections and writes them to a file.
fn record(drawing: &Drawing, overhead: f64, load: f64, seed: u64) -> Result<Arrivals> {
    let directory = workspace::root().join("target/waits");
    fs::create_dir_all(&directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    let file = directory.join(format!("{}-{load}-{seed}", drawing.name()));
    sim::write(&file, &drawing.draw(load / 100.0, overhead, seed))?;
    // The connections are read back, because the file has their times to the microsecond.
    let connections = sim::read(&file)?;
    let measured_from = connections.partition_point(|connection| connection.at < drawing.warm_up());
    Ok(Arrivals {
        seed,
        file,
        connections,
        measured_from,
    })
}
