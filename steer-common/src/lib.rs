//! What the kernel programs and the loader of steer share: the layout of the maps, and the
//! policies.
//!
//! Everything here is `no_std`, does no I/O, and builds for the kernel and for the host alike. So
//! the policies that choose a worker inside the kernel are the ones that the tests run. One module
//! needs std: `sim`, which simulates the policies on the host. It comes with the feature `sim`.
#![no_std]

#[cfg(feature = "sim")]
extern crate std;

pub mod config;
pub mod counters;
pub mod eject;
pub mod event;
pub mod learn;
pub mod limits;
pub mod names;
pub mod offsets;
pub mod policy;
pub mod quantile;
pub mod registry;
#[cfg(feature = "sim")]
pub mod sim;
pub mod slot;
pub mod turns;
pub mod view;

mod pod;
