//! Where things are in the repository.

use std::path::{Path, PathBuf};

/// The directory of the workspace's Cargo.toml.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Cargo's target directory for the kernel object. The cargo that waits for this build may hold
/// the lock of the usual target directory, so this is another one.
pub fn bpf_target_dir() -> PathBuf {
    root().join("target/bpf")
}

/// Tools that were built for this clone.
pub fn tools_dir() -> PathBuf {
    root().join("target/tools")
}
