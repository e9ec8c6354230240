//! What each command does, shows and refuses, for whom, and from where.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod bad_input;
mod capabilities;
mod container;
mod demo;
mod detach;
mod devices;
mod doctor;
mod drain;
mod evict;
mod netns;
mod pid_namespace;
mod places;
mod policy;
mod status;
