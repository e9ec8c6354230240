//! Which worker a connection goes to.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod cookies;
mod eject;
mod event_loop;
mod half_open;
mod learned;
mod rr_exact;
mod same_choices;
mod simultaneous;
mod sticky;
