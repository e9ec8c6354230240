//! What the kernel programs and the loader of steer share: the layout of the maps, and the
//! policies.
//!
//! Everything here is `no_std`, does no I/O, and builds for the kernel and for the host alike. So
//! the policies that choose a worker inside the kernel are the ones that the tests run.
#![no_std]

pub mod config;
pub mod counters;
pub mod eject;
pub mod event;
pub mod learn;
pub mod limits;
pub mod names;
pub mod offsets;
pub mod policy;
pub mod registry;
pub mod slot;
pub mod turns;
pub mod view;

mod pod;
