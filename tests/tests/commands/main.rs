//! What each command does, shows and refuses, for whom, and from where.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod bad_input;
mod capabilities;
mod container;
mod demo;
mod devices;
mod doctor;
mod netns;
mod pid_namespace;
mod places;
mod policy;
