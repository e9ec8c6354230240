//! Real servers: Node, Bun, nginx and Python in the gate; others and a browser when asked for.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod browser;
mod bun;
mod gaps;
mod nginx;
mod python;
mod real;
mod replaced;
mod rolling;
