//! The `steer` command as a library: everything but `main`, so that tests can call it.
//!
//! A room for each question. None imports from one that stands above it here:
//!
//! - [`cli`]: what was typed, and what is printed for it;
//! - [`steering`]: what keeps a port equal to its workers;
//! - [`state`]: what is pinned, shared and locked;
//! - [`survey`]: who listens, and who serves;
//! - [`kernel`]: what this kernel is and can do;
//! - [`demo`]: workers and clients to show it with;
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
