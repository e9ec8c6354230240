//! What is left, and what goes on, where something fails or runs out.
//!
//! Each module is run by itself, as a process of its own: `cargo xtask test --test MODULE`.

mod abandoned;
mod fallback;
mod injected;
mod stale;
mod surplus;
