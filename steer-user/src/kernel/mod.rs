//! What this kernel is, and what it can do.

pub mod bpf_sys;
pub mod btf;
pub mod kernel_version;
pub mod loading;
pub mod lockdown;
pub mod migration;
pub mod object;
pub mod offsets;
pub mod readings;
pub mod verifier;
pub mod yama;
