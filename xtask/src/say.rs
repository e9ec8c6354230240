//! Progress of the commands, on stderr.

use std::fmt::Display;

/// Tells what is being done.
#[expect(
    clippy::print_stderr,
    reason = "the only place where the commands speak"
)]
pub fn step(what: impl Display) {
    eprintln!("xtask: {what}");
}
