//! What the kernel programs see, choose and count, and what this kernel is and can do.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod counts;
mod early;
mod fast_open;
mod flood;
mod hardened;
mod harness;
mod listing;
mod migration;
mod refusal;
mod verifier;
