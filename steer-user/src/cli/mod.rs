//! What was typed, and what is printed for it.

pub mod absent;
pub mod args;
pub mod cmd;
pub mod edit;
pub mod parse;
pub mod report;
