//! A discrete-event simulation of the policies, beside the best that there could be.
//!
//! The workers are single event loops that serve one request at a time, in the order in which
//! requests come, as Bun and Node do. The policies are the very ones that choose inside the
//! kernel.
//!
//! A run is a [`Setting`] and the connections that its clients make. The connections are drawn by
//! a [`Source`], or read from text ([`parse`]). [`simulate`] returns what came of the run.

mod discipline;
mod engine;
mod group;
mod recorded;
mod summary;
mod workload;

pub use discipline::Discipline;
pub use engine::{Outcome, Setting, simulate};
pub use group::Part;
pub use recorded::{Unreadable, format, parse};
pub use summary::Waits;
pub use workload::{Connection, Mix, Request, Source, load, ms, ns, one_after_another};
