//! What the repository's commands and steer's build script share: how to find the eBPF toolchain,
//! how to install it, and the one recipe that builds the kernel objects.

pub mod command;
pub mod debian;
pub mod ebpf;
pub mod isolation;
pub mod linker;
pub mod packages;
pub mod rustc;
pub mod say;
pub mod toolchain;
pub mod workspace;
