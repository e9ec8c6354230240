//! One file for each subcommand.

mod before_after;
mod bench;
mod build;
mod build_ebpf;
mod cargo;
mod clippy;
mod demo;
mod environment;
mod faults;
mod fuzz;
pub(crate) mod modules;
mod old;
mod side_by_side;
mod skipped;
pub(crate) mod suite;
mod test;

pub(crate) use bench::{BenchArgs, bench, privileged_program};
pub(crate) use build::build;
pub(crate) use build_ebpf::build_ebpf;
pub(crate) use cargo::Executable;
pub(crate) use clippy::clippy;
pub(crate) use demo::{DemoArgs, demo};
pub(crate) use environment::passed_on;
pub(crate) use faults::{FaultsArgs, faults};
pub(crate) use fuzz::{FuzzArgs, fuzz};
pub(crate) use test::{ONLY_IN_MACHINES, TestArgs, test};
