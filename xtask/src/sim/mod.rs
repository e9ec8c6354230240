//! `cargo xtask sim`: the policies against the best there could be, in a discrete-event simulation.
//!
//! The workers are single event loops that serve one request at a time in the order in which they
//! come, as Bun and Node are. The policies are the very ones that choose inside the kernel.

mod args;
mod course;
mod discipline;
mod engine;
mod group;
mod picture;
mod run;
mod summary;
mod table;
mod workload;

pub(crate) use args::Args;
pub(crate) use discipline::Discipline;
pub(crate) use engine::{Setting, simulate};
pub(crate) use run::run;
pub(crate) use summary::Waits;
#[cfg(test)]
pub(crate) use workload::Request;
pub(crate) use workload::{Connection, Mix, Source, load, ms, ns, read, write};
