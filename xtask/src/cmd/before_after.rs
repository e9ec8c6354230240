//! The README's picture of what `steer demo` measured: a round of median length before, and one
//! after.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, ensure};

/// How long each request of `steer demo` blocks its worker, in milliseconds.
const BLOCK: f64 = 60.0;

const LEFT: f64 = 74.0;
const PANEL: f64 = 250.0;
const GAP: f64 = 90.0;
const TOP: f64 = 70.0;
const LANE: f64 = 34.0;

/// The styles for light and dark. GitHub and browsers take the colours for the reader's scheme
/// from the picture itself.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}\
.title{font-size:15px;font-weight:600}.name{font-weight:600}.soft{fill:#59636e}\
.axis{stroke:#d1d9e0}.other{fill:#8c959f}.steer{fill:#0969da}.in{fill:#fff;font-weight:600}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.soft{fill:#9198a1}.axis{stroke:#3d444d}\
.other{fill:#6e7681}.steer{fill:#4493f8}.in{fill:#0d1117}}";

/// A line of the demo's table.
#[derive(Debug, PartialEq)]
struct Line {
    /// In how many rounds all three requests met different workers.
    spread: u32,
    /// How many rounds there were.
    rounds: u32,
    /// The time to the last answer in a round of median length, in milliseconds.
    median: f64,
    /// The time to the last answer in the slowest round, in milliseconds.
    slowest: f64,
}

impl Line {
    /// Finds the line that begins with `name`, as in `rr   40 of 40  100 %   61 ms   65 ms`.
    fn find(table: &str, name: &str) -> Result<Self> {
        let mut lines = table.lines();
        let line = lines
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("the demo's table has no line {name}: {table}"))?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [spread, "of", rounds, _, "%", median, "ms", slowest, "ms"] = words[..] else {
            anyhow::bail!("a line of the demo's table isn't what it was: {line}");
        };
        Ok(Self {
            spread: spread.parse()?,
            rounds: rounds.parse()?,
            median: median.parse()?,
            slowest: slowest.parse()?,
        })
    }
}

/// Draws the demo's table into a file.
pub(super) fn write(file: &Path, table: &str) -> Result<()> {
    let hash = Line::find(table, "kernel hash")?;
    let least = Line::find(table, "least")?;
    fs::write(file, draw(&hash, &least)?)
        .with_context(|| format!("failed to write {}", file.display()))
}

fn draw(hash: &Line, least: &Line) -> Result<String> {
    let width = LEFT + 2.0 * PANEL + GAP + 70.0;
    let height = TOP + 3.0 * LANE + 66.0;
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"Three requests at once \
         over three workers, under the kernel's hash and under steer\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"22\">Three requests at once, three workers, {BLOCK} ms \
         each</text>"
    )?;
    for worker in 0..3 {
        let y = TOP + 23.0 + f64::from(worker) * LANE;
        writeln!(
            svg,
            "<text class=\"soft\" x=\"8\" y=\"{y}\">worker {}</text>",
            worker + 1
        )?;
    }
    let longest = hash.median.max(least.median) + 10.0;
    draw_panel(
        &mut svg,
        LEFT,
        longest,
        ("The kernel's hash", "other"),
        hash,
    )?;
    let right = LEFT + PANEL + GAP;
    draw_panel(&mut svg, right, longest, ("steer, least", "steer"), least)?;
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn draw_panel(
    svg: &mut String,
    left: f64,
    longest: f64,
    (name, class): (&str, &str),
    line: &Line,
) -> Result<()> {
    let place = |ms: f64| left + ms * PANEL / longest;
    // The requests that each worker gets. If a round takes the time of two requests, two of them
    // met.
    let meet = (line.median / BLOCK).round() as u32;
    ensure!(
        (1..=2).contains(&meet),
        "a median round is no picture: {line:?}"
    );
    let workers: [&[u32]; 3] = if meet == 2 {
        [&[1, 2], &[3], &[]]
    } else {
        [&[1], &[2], &[3]]
    };
    writeln!(
        svg,
        "<text class=\"name\" x=\"{left}\" y=\"48\">{name}</text>\n\
         <text class=\"soft\" x=\"{left}\" y=\"64\">a round of median length</text>"
    )?;
    let mut y = TOP + 6.0;
    for requests in workers {
        let end = left + PANEL;
        writeln!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{end}\" y1=\"{0}\" y2=\"{0}\"/>",
            y + 24.0
        )?;
        if requests.is_empty() {
            writeln!(
                svg,
                "<text class=\"soft\" x=\"{}\" y=\"{}\">idle</text>",
                left + 4.0,
                y + 16.0
            )?;
        }
        let mut begins = 0.0;
        for request in requests {
            let (from, to) = (place(begins), place(begins + BLOCK));
            writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"22\" \
                 rx=\"3\"/>\n<text class=\"in\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">request \
                 {request}</text>",
                to - from - 2.0,
                f64::midpoint(from, to),
                y + 15.0
            )?;
            begins += BLOCK;
        }
        y += LANE;
    }
    let bottom = TOP + 3.0 * LANE;
    let at = place(line.median);
    let Line {
        spread,
        rounds,
        median,
        slowest,
    } = line;
    writeln!(
        svg,
        "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/>\n\
         <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">last answer: {median} ms</text>\n\
         <text class=\"soft\" x=\"{left}\" y=\"{}\">each request on its own worker in {spread} of \
         {rounds} rounds</text>\n\
         <text class=\"soft\" x=\"{left}\" y=\"{}\">slowest round: {slowest} ms</text>",
        bottom + 6.0,
        bottom + 20.0,
        bottom + 42.0,
        bottom + 58.0
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "               rounds in which all three    time to the last answer\n\
                         policy           hit different workers             p50          max\n\
                         kernel hash         13 of 40   32 %             121 ms       182 ms\n\
                         rr                  40 of 40  100 %              61 ms        61 ms\n\
                         least               40 of 40  100 %              61 ms        65 ms\n";

    #[test]
    fn a_line_is_read_as_the_demo_prints_it() -> Result<()> {
        let line = Line::find(TABLE, "kernel hash")?;
        assert_eq!((line.spread, line.rounds), (13, 40));
        assert_eq!(line.median.total_cmp(&121.0), std::cmp::Ordering::Equal);
        assert!(Line::find(TABLE, "p2c").is_err());
        Ok(())
    }

    #[test]
    fn two_requests_meet_under_the_hash_and_none_under_steer() -> Result<()> {
        let svg = draw(
            &Line::find(TABLE, "kernel hash")?,
            &Line::find(TABLE, "least")?,
        )?;
        assert_eq!(svg.matches(">idle<").count(), 1);
        assert_eq!(svg.matches("last answer: 121 ms").count(), 1);
        assert_eq!(svg.matches("last answer: 61 ms").count(), 1);
        assert_eq!(svg.matches("<rect").count(), 6);
        Ok(())
    }
}
