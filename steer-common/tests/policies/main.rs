//! The policies, on the host: the same code that chooses inside the kernel.

mod group;
mod least;
mod rr;
