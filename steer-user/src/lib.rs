//! The `steer` command as a library: everything but `main`, so that tests can call it.
//!
//! There is a room for each question. A room imports only from rooms below it in this list:
//!
//! - [`cli`]: what was typed, and what is printed for it;
//! - [`steering`]: what keeps a port equal to its workers;
//! - [`state`]: what is pinned, shared and locked;
//! - [`survey`]: who listens, and who serves;
//! - [`kernel`]: what this kernel is, and what it can do;
//! - [`demo`]: the workers and the client of `steer demo`;
//! - [`sys`]: thin system calls;
//! - [`output`]: what goes to stdout and stderr, and how steer ends.

pub mod cli;
pub mod demo;
pub mod kernel;
pub mod output;
pub mod state;
pub mod steering;
pub mod survey;
pub mod sys;
