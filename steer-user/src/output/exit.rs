//! How steer ends: the exit codes, and the failures that carry them.

use std::process::ExitCode;

/// Exit codes. They are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that no other code names.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A capability is missing, or a directory is another user's.
    NotPermitted = 3,
    /// Nothing listens on the port, or nothing is steered there.
    NothingThere = 4,
    /// The listeners can't be steered.
    CantSteer = 5,
    /// Another steer, or another program, holds the group.
    Held = 6,
    /// The kernel is too old, has no BTF, or is locked down.
    Unsupported = 7,
    /// Something took longer than the caller wanted to wait.
    TimedOut = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure with an exit code of its own. Its message says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fail {
    /// The exit code.
    pub exit: Exit,
    /// The message, in one line.
    pub message: String,
}

impl Fail {
    /// A failure that ends steer with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}
