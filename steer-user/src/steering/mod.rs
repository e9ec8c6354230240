//! What keeps a port equal to its workers.

pub mod abandoned;
pub mod admission;
pub mod advice;
pub mod attachment;
pub mod backoff;
pub mod detach;
pub mod earlier;
pub mod failure;
pub mod group;
pub mod older;
pub mod orders;
pub mod plan;
pub mod reload;
pub mod stale;
pub mod take;
pub mod teardown;
pub mod watch;
