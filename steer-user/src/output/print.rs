//! The only place that prints: stdout is data, stderr is messages.

use std::io::{self, Write as _};

/// Writes data to stdout. A reader that has gone away is no failure.
pub fn data(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes one line to stderr. Nobody is left to tell when that fails.
pub fn message(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
