//! The rows, as a picture. Each load has a panel, and each discipline a line in the panel. The
//! line goes from the median of the waits to the 99 % quantile, with a dot at 50, 90 and 99 %.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{row::Row, scale};

const LABELS: f64 = 84.0;
const PANEL: f64 = 230.0;
const GAP: f64 = 50.0;
const TOP: f64 = 74.0;
const LINE: f64 = 30.0;
const BOTTOM: f64 = 40.0;

/// The styles for light and dark. GitHub and browsers take the colours for the reader's scheme
/// from the picture itself.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}\
.title{font-size:15px;font-weight:600}.soft{fill:#59636e}.grid{stroke:#d1d9e0}\
.range{stroke:#8c959f;stroke-width:3}.dot{fill:#59636e}\
.steer .range{stroke:#0969da}.steer .dot{fill:#0969da}.steer text{font-weight:600}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.soft{fill:#9198a1}.grid{stroke:#3d444d}\
.range{stroke:#6e7681}.dot{fill:#9198a1}.steer .range{stroke:#4493f8}.steer .dot{fill:#4493f8}}";

/// Draws the first requests' waits.
pub(crate) fn write(file: &Path, title: &str, rows: &[Row]) -> Result<()> {
    let svg = draw(title, rows)?;
    fs::write(file, svg).with_context(|| format!("failed to write {}", file.display()))
}

fn draw(title: &str, rows: &[Row]) -> Result<String> {
    let panels: Vec<&[Row]> = rows.chunk_by(Row::is_at_load_of).collect();
    let lines = panels.iter().map(|panel| panel.len()).max().unwrap_or(0);
    let width = LABELS + panels.len() as f64 * (PANEL + GAP);
    let height = TOP + lines as f64 * LINE + BOTTOM;
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n\
         <text class=\"soft\" x=\"8\" y=\"41\">dots: half, 90 % and 99 % of the connections wait \
         less; the scale is logarithmic, less than 0.1 ms is drawn at its left end</text>"
    )?;
    for (index, panel) in panels.iter().enumerate() {
        let left = LABELS + index as f64 * (PANEL + GAP);
        draw_scale(&mut svg, left, height, panel)?;
        for (line, row) in panel.iter().enumerate() {
            draw_row(
                &mut svg,
                left,
                TOP + (line as f64 + 0.5) * LINE,
                index == 0,
                row,
            )?;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn draw_scale(svg: &mut String, left: f64, height: f64, panel: &[Row]) -> Result<()> {
    let bottom = height - BOTTOM;
    let load = panel.first().map_or(0.0, |row| row.load * 100.0);
    writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\">at {load:.0} % load</text>",
        TOP - 8.0
    )?;
    for power in scale::POWERS {
        let x = left + place(10_f64.powi(power));
        let label = scale::label(power);
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"soft\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 17.0
        )?;
    }
    Ok(())
}

fn draw_row(svg: &mut String, left: f64, y: f64, labelled: bool, row: &Row) -> Result<()> {
    let class = if row.discipline.policy().is_some() {
        "steer"
    } else {
        "other"
    };
    writeln!(svg, "<g class=\"{class}\">")?;
    if labelled {
        writeln!(
            svg,
            "<text x=\"8\" y=\"{}\">{}</text>",
            y + 4.0,
            row.discipline
        )?;
    }
    let [p50, p90, p99] =
        [row.first.p50, row.first.p90, row.first.p99].map(|wait| left + place(wait));
    writeln!(
        svg,
        "<line class=\"range\" x1=\"{p50:.1}\" x2=\"{p99:.1}\" y1=\"{y}\" y2=\"{y}\"/>"
    )?;
    for (x, size) in [(p50, 3.0), (p90, 4.0), (p99, 5.5)] {
        writeln!(
            svg,
            "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y}\" r=\"{size}\"/>"
        )?;
    }
    svg.push_str("</g>\n");
    Ok(())
}

/// How far right a wait in ms is drawn.
fn place(wait: f64) -> f64 {
    scale::place(wait) * PANEL
}
