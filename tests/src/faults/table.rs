//! The table of faults.

use super::{Fault, Row};

/// The head of the table.
const HEAD: &str = "\
| fault | by | sent | served | refused | reset | hung | checked |
|---|---|---:|---:|---:|---:|---:|---|
";

/// Makes a Markdown table of what came of each fault.
pub fn markdown(faults: &[(Fault, Vec<Row>)]) -> String {
    let mut table = HEAD.to_owned();
    for (fault, rows) in faults {
        for (index, row) in rows.iter().enumerate() {
            let what = if index == 0 { fault.what } else { "" };
            table += &line(what, row);
        }
    }
    table
}

fn line(what: &str, row: &Row) -> String {
    let census = &row.census;
    let mut checked = row.held.clone();
    checked.extend(row.failed.iter().map(|why| format!("**FAILED: {why}**")));
    if let Err(error) = census.check() {
        checked.push(format!("**FAILED: {error:#}**"));
    }
    let checked = checked.join("; ").replace('|', "\\|").replace('\n', " ");
    format!(
        "| {what} | {} | {} | {} | {} | {} | {} | {checked} |\n",
        row.by,
        census.sent,
        census.answered(),
        census.refused,
        census.reset,
        census.hung,
    )
}
