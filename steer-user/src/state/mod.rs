//! What is pinned, shared and locked.

pub mod bpffs;
pub mod host;
pub mod lock;
pub mod pins;
pub mod recount;
pub mod snapshot;
pub mod table;
