//! The waits along a run, as a picture: a line for each discipline.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use steer_common::sim::ms;

use super::{row::Row, scale};

/// How many parts a run is divided into. A mean is drawn for each part.
const PARTS: usize = 60;

const LEFT: f64 = 60.0;
const WIDTH: f64 = 640.0;
const TOP: f64 = 40.0;
const HEIGHT: f64 = 240.0;
const RIGHT: f64 = 90.0;
const BOTTOM: f64 = 40.0;

/// The styles for light and dark. GitHub and browsers take the colours for the reader's scheme
/// from the picture itself.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.soft{fill:#59636e}\
.grid{stroke:#d1d9e0}polyline{fill:none;stroke:#8c959f;stroke-width:1.5}\
.least{stroke:#0969da;stroke-width:3}.rr{stroke-dasharray:6 3}.jsq{stroke-dasharray:2 3}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.soft{fill:#9198a1}.grid{stroke:#3d444d}\
polyline{stroke:#6e7681}.least{stroke:#4493f8}}";

/// The mean wait in each part of the run, over all runs together, in ms.
pub(crate) fn means(runs: &[&[u64]]) -> Vec<f64> {
    (0..PARTS)
        .map(|part| {
            let of_part = |run: &&[u64]| {
                let ends = [part, part + 1].map(|part| part * run.len() / PARTS);
                run[ends[0]..ends[1]].to_owned()
            };
            let waits: Vec<u64> = runs.iter().flat_map(of_part).collect();
            let sum: f64 = waits.iter().map(|wait| ms(*wait)).sum();
            sum / waits.len().max(1) as f64
        })
        .collect()
}

/// Draws the rows of the first load.
pub(crate) fn write(file: &Path, rows: &[Row]) -> Result<()> {
    let svg = draw(rows)?;
    fs::write(file, svg).with_context(|| format!("failed to write {}", file.display()))
}

fn draw(rows: &[Row]) -> Result<String> {
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <text class=\"soft\" x=\"8\" y=\"22\">mean wait of first requests, each of {PARTS} parts of the \
         connections in their order</text>"
    )?;
    for power in scale::POWERS {
        let y = place(10_f64.powi(power));
        let label = scale::label(power);
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"soft\" \
             x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            y + 4.0
        )?;
    }
    let Some(first) = rows.first() else {
        return Ok(svg);
    };
    for row in rows.iter().filter(|row| row.is_at_load_of(first)) {
        let points: Vec<String> = row
            .course
            .iter()
            .enumerate()
            .map(|(part, mean)| {
                let x = LEFT + (part as f64 + 0.5) / PARTS as f64 * WIDTH;
                format!("{x:.1},{:.1}", place(*mean))
            })
            .collect();
        let end = row.course.last().copied().unwrap_or(0.0);
        writeln!(
            svg,
            "<polyline class=\"{0}\" points=\"{1}\"/><text x=\"{2}\" y=\"{3:.1}\">{0}</text>",
            row.discipline,
            points.join(" "),
            LEFT + WIDTH + 6.0,
            place(end) + 4.0
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// How far down a wait in ms is drawn.
fn place(wait: f64) -> f64 {
    TOP + HEIGHT * (1.0 - scale::place(wait))
}
