//! Who listens on a port, and who serves.

pub mod address;
pub mod groups;
pub mod members;
pub mod port;
pub mod proc;
pub mod queue;
pub mod serving;
