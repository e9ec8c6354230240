//! The only place that prints. stdout is for data, stderr for messages.

use std::io::{self, Write as _};

/// Writes data to stdout. It is no error if the reader has gone away.
pub fn data(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes one line to stderr. If that fails, there is nobody left to tell.
pub fn message(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
