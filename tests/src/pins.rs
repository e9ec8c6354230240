//! Where a test looks for what steer has pinned.

use std::{fs, path::PathBuf};

use anyhow::bail;
use steer_common::names::LAYOUT;

/// Where the only attachment of a port is pinned.
///
/// # Errors
/// When there is none.
pub fn pinned(port: u16) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(format!("/sys/fs/bpf/steer/v{LAYOUT}"))? {
        let dir = entry?.path().join(format!("tcp-{port}"));
        if dir.exists() {
            return Ok(dir);
        }
    }
    bail!("nothing is pinned for port {port}")
}
