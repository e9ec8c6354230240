//! Everything that can be done to a steered port, at random, beside a model of what must come of it.
//!
//! - [`step`]: what can be done, and when;
//! - [`model`]: what steer's maps must say afterwards;
//! - [`seen`]: what they say;
//! - [`objects`]: the kernel's objects of steer, none of which may stay;
//! - [`loader`]: what a loader has open;
//! - [`port`]: takes the steps, and says what must hold at the end.

pub mod loader;
pub mod model;
pub mod objects;
pub mod port;
pub mod random;
pub mod seen;
pub mod step;
