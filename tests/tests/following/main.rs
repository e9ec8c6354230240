//! What keeps a port equal to its workers: they come, go, hand over and restart, and so do steers.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod churn;
mod earlier;
mod families;
mod lifecycle;
mod open_connections;
mod reload;
mod serving;
mod stateful;
mod supervisor;
mod systemd;
mod together;
mod upgrade;
