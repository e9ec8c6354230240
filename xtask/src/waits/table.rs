//! The rows, as a table or as JSON.
#![expect(clippy::print_stdout, reason = "the numbers are the command's output")]

use serde_json::json;

use super::{
    bounds::Bound,
    cell::{Cell, Rig},
};

/// Prints a table for people. Waits are in ms.
pub(super) fn print(rig: &Rig, cells: &[Cell], bounds: &[Bound]) {
    println!(
        "{} workers, {:.3} ms on top of a request's service time, capacity {:.0} requests/s\n\
         First requests' waits in ms.\n\n\
         load by                     mean     p50     p90     p99   misplaced overhead  late p99",
        rig.workers, rig.overhead, rig.capacity
    );
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 && cells[index - 1].load.to_bits() != cell.load.to_bits() {
            println!();
        }
        let waits = cell.waits();
        let kind = if cell.is_measured() {
            "measured"
        } else {
            "simulated"
        };
        print!(
            "{:3}% {:7} {kind:9}  {:7.2} {:7.2} {:7.2} {:7.2}",
            cell.load,
            cell.name(),
            waits.mean,
            waits.p50,
            waits.p90,
            waits.p99
        );
        match &cell.runs {
            Some(runs) => println!(
                "     {:5.1} %   {:6.3}    {:6.2}",
                runs.misplaced as f64 * 100.0 / runs.connections.max(1) as f64,
                runs.overhead,
                runs.late
            ),
            None => println!(),
        }
    }
    println!();
    for bound in bounds {
        println!("{}", bound.line());
    }
}

/// Prints one JSON object. Waits are in ms.
pub(super) fn print_json(rig: &Rig, cells: &[Cell], bounds: &[Bound], failures: &[String]) {
    let rows: Vec<_> = cells
        .iter()
        .map(|cell| {
            let waits = cell.waits();
            json!({
                "load": cell.load,
                "by": cell.name(),
                "measured": cell.is_measured(),
                "first": {"mean": waits.mean, "p50": waits.p50, "p90": waits.p90, "p99": waits.p99},
                "runs": cell.runs.as_ref().map(|runs| json!({
                    "connections": runs.connections,
                    "misplaced": runs.misplaced,
                    "overhead_most": runs.overhead,
                    "late_p99_most": runs.late,
                })),
            })
        })
        .collect();
    println!(
        "{}",
        json!({
            "workers": rig.workers,
            "overhead": rig.overhead,
            "capacity": rig.capacity,
            "rows": rows,
            "bounds": bounds.iter().map(Bound::json).collect::<Vec<_>>(),
            "failures": failures,
        })
    );
}
