//! What clients did, as text.
//!
//! There is a line for each connection: its time, the service time of its first request, and the
//! think time and service time of every further request, all in ms. Empty lines, and lines that
//! begin with #, are skipped.

use core::{fmt::Write as _, num::ParseFloatError};
use std::{
    borrow::ToOwned as _,
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use super::workload::{Connection, Request, ms, ns};

/// Why connections can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Something that should be a number is none.
    #[error("failed to read the numbers of {place}")]
    NoNumber {
        /// The text's name and the line.
        place: String,
        /// What is wrong with the number.
        source: ParseFloatError,
    },
    /// There are too few numbers, or one too many.
    #[error("{place} has neither two numbers nor two more for each further request")]
    Count {
        /// The text's name and the line.
        place: String,
    },
    /// The text has no connections.
    #[error("{name} has no connections")]
    Empty {
        /// The text's name.
        name: String,
    },
}

/// Reads the connections of a text, and sorts them by their times. Errors call the text by `name`.
///
/// # Errors
/// Fails if the text has no connections, or if a line isn't one.
pub fn parse(name: &str, text: &str) -> Result<Vec<Connection>, Unreadable> {
    let mut connections = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        connections.push(connection(line, || format!("{name}:{}", index + 1))?);
    }
    if connections.is_empty() {
        let name = name.to_owned();
        return Err(Unreadable::Empty { name });
    }
    connections.sort_by_key(|connection| connection.at);
    Ok(connections)
}

fn connection(line: &str, place: impl Fn() -> String) -> Result<Connection, Unreadable> {
    let numbers = line
        .split_whitespace()
        .map(|number| number.parse().map(ns))
        .collect::<Result<Vec<u64>, _>>()
        .map_err(|source| Unreadable::NoNumber {
            place: place(),
            source,
        })?;
    // Each pair is the think time and service time of a request. The first pair has the arrival in
    // place of the think time.
    let (pairs, rest) = numbers.as_chunks::<2>();
    let Some([at, _]) = pairs.first().filter(|_| rest.is_empty()) else {
        return Err(Unreadable::Count { place: place() });
    };
    let request = |(index, [think, service]): (usize, &[u64; 2])| Request {
        think: if index == 0 { 0 } else { *think },
        service: *service,
    };
    Ok(Connection {
        at: *at,
        requests: pairs.iter().enumerate().map(request).collect(),
    })
}

/// Writes connections as [`parse`] reads them, to the microsecond.
pub fn format(connections: &[Connection]) -> String {
    let mut text = "# ms: arrival service [think service]..\n".to_string();
    for connection in connections {
        // Writing to a String can't fail.
        let _ = write!(text, "{:.3}", ms(connection.at));
        for (index, request) in connection.requests.iter().enumerate() {
            if index > 0 {
                let _ = write!(text, " {:.3}", ms(request.think));
            }
            let _ = write!(text, " {:.3}", ms(request.service));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let text =
            "# ms: arrival service [think service]..\n1.500 2.000\n3.000 4.000 5.000 0.006\n";
        let connections = parse("here", text).expect("connections");
        assert_eq!(connections[0].at, 1_500_000);
        assert_eq!(connections[0].requests.len(), 1);
        assert_eq!(connections[1].requests[0].think, 0);
        assert_eq!(connections[1].requests[1].think, 5_000_000);
        assert_eq!(connections[1].requests[1].service, 6_000);
        assert_eq!(format(&connections), text);
    }

    #[test]
    fn they_are_put_in_order() {
        let connections = parse("here", "7 1\n\n2 1\n").expect("connections");
        let times: Vec<u64> = connections.iter().map(|connection| connection.at).collect();
        assert_eq!(times, [2_000_000, 7_000_000]);
    }

    #[test]
    fn errors_name_the_line() {
        let error = |text| parse("here", text).expect_err("no connections").to_string();
        assert_eq!(error("1 2\n3 x\n"), "failed to read the numbers of here:2");
        let count = "has neither two numbers nor two more for each further request";
        assert_eq!(error("1 2\n3 4 5\n"), format!("here:2 {count}"));
        assert_eq!(error("1\n"), format!("here:1 {count}"));
        assert_eq!(error("# nothing\n"), "here has no connections");
    }
}
