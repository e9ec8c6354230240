//! Everything that can be done to the steered ports of a host, at random, beside a model of what must come
//! of it.
//!
//! - [`step`]: what can be done, and when;
//! - [`model`]: what steer's maps must say afterwards;
//! - [`seen`]: what they say;
//! - [`open`]: whether what they count is what the kernel lists;
//! - [`share`]: whether each worker gets connections;
//! - [`objects`]: the kernel's objects of steer, none of which may stay;
//! - [`loader`]: what a loader has open;
//! - [`words`]: what workers of five kinds are told and say;
//! - [`crew`]: those of a port;
//! - [`place`]: the network namespace that a port is in;
//! - [`port`]: one port;
//! - [`host`]: takes the steps, and says what must hold at the end.

pub mod crew;
pub mod host;
pub mod loader;
pub mod model;
pub mod objects;
pub mod open;
pub mod place;
pub mod port;
pub mod random;
pub mod seen;
pub mod share;
pub mod step;
pub mod words;
