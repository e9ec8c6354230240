//! `cargo xtask build-ebpf`

use std::fs;

use anyhow::{Context as _, Result};
use xtask::{ebpf, say, toolchain};

pub(crate) fn build_ebpf() -> Result<()> {
    let toolchain = toolchain::install()?;
    let object = ebpf::build(&toolchain)?;
    let bytes =
        fs::read(&object).with_context(|| format!("failed to read {}", object.display()))?;
    say::step(format_args!(
        "kernel object {}, {} bytes: {}",
        ebpf::short_hash(&bytes),
        bytes.len(),
        object.display()
    ));
    Ok(())
}
