//! The subcommands, one file each.

pub mod attach;
pub mod demo;
pub mod detach;
pub mod status;
