//! The policies against the best there could be, in a discrete-event simulation.
//!
//! The workers are single event loops that serve one request at a time in the order in which they
//! come, as Bun and Node are. The policies are the very ones that choose inside the kernel.
//!
//! A run is a [`Setting`] and the connections that its clients make: drawn by a [`Source`], or read
//! from text ([`parse`]). [`simulate`] gives what came of it.

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
