//! The subcommands, one file each.

pub mod attach;
pub mod demo;
pub mod detach;
pub mod doctor;
pub mod drain;
pub mod evict;
pub mod policy;
pub mod status;
pub mod weight;
