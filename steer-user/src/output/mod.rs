//! What goes to stdout and stderr, and how steer ends.

pub mod escape;
pub mod exit;
pub mod logger;
pub mod plural;
pub mod print;
pub mod supervisor;
