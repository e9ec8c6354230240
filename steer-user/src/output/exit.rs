//! How steer ends: exit codes and the failures that carry them.

use std::process::ExitCode;

/// Exit codes, part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that none of the others names.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A capability is missing, or the right to a directory.
    NotPermitted = 3,
    /// No listener on the port, or nothing attached to it.
    NothingThere = 4,
    /// The listeners can't be steered.
    CantSteer = 5,
    /// Another steer, or another program, holds the group.
    Held = 6,
    /// The kernel is too old or lacks BTF.
    Unsupported = 7,
    /// A wait took longer than it may.
    TimedOut = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure with an exit code of its own: what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fail {
    /// The exit code.
    pub exit: Exit,
    /// One line.
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
