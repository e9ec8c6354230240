//! The rows, as a table or as JSON.
#![expect(clippy::print_stdout, reason = "the numbers are the command's output")]

use serde_json::json;
use steer_common::sim::Waits;

use super::row::Row;

/// Prints a table for people. Waits are in ms.
pub(crate) fn print(rows: &[Row]) {
    let kept = rows.iter().any(|row| row.further.is_some());
    print!("load by           mean     p50     p90     p99  (of the seeds)");
    if kept {
        print!("   further mean     p90     p99");
    }
    println!("   open mean   most");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 && !rows[index - 1].is_at_load_of(row) {
            println!();
        }
        let first = &row.first;
        print!(
            "{:3.0}% {:8}  {}  {}  {}  {}  {:>14}",
            row.load * 100.0,
            row.discipline,
            wait(first.mean),
            wait(first.p50),
            wait(first.p90),
            wait(first.p99),
            format!("({:.0} to {:.0})", row.p99_range.0, row.p99_range.1),
        );
        if let Some(further) = &row.further {
            print!(
                "       {}  {}  {}",
                wait(further.mean),
                wait(further.p90),
                wait(further.p99)
            );
        }
        println!("   {:9.1}  {:5}", row.mean_open, row.most_open);
    }
}

/// Prints one JSON array. Waits are in ms.
pub(crate) fn print_json(rows: &[Row]) {
    let waits = |waits: &Waits| json!({"mean": waits.mean, "p50": waits.p50, "p90": waits.p90, "p99": waits.p99});
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "load": row.load,
                "by": row.discipline.to_string(),
                "first": waits(&row.first),
                "first_p99_seeds": [row.p99_range.0, row.p99_range.1],
                "further": row.further.as_ref().map(waits),
                "open_mean": row.mean_open,
                "open_most": row.most_open,
            })
        })
        .collect();
    println!("{}", json!(rows));
}

fn wait(ms: f64) -> String {
    if ms < 9.95 {
        format!("{ms:6.2}")
    } else {
        format!("{ms:6.1}")
    }
}
