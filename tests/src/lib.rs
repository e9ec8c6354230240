//! What the privileged tests of steer are made of: namespaces of their own, real workers, the real
//! `steer` binary, and a client that accounts for every connection.
//!
//! A test begins with [`isolate::isolate`], mostly by way of [`fixture`]. It makes the test independent of every
//! other one.

pub mod bpf;
pub mod bursts;
pub mod census;
pub mod churn;
pub mod connections;
pub mod contained;
pub mod faults;
pub mod fixture;
pub mod foreign;
pub mod isolate;
pub mod net;
pub mod packet;
pub mod patience;
pub mod pins;
pub mod process;
pub mod server;
pub mod servers;
pub mod skip;
pub mod stateful;
pub mod status;
pub mod steer;
pub mod texts;
pub mod trace;
pub mod trial;
pub mod user;
pub mod workers;

pub use steer_user::demo::client::{Outcome, Shot, Target};

/// The port that tests use unless they need several: each has a network namespace to itself.
pub const PORT: u16 = 3000;
