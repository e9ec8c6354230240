//! The policies, on the host: the same code that chooses inside the kernel.

mod all;
mod hash;
mod least;
mod p2c;
mod rr;
mod sticky;
