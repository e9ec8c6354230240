//! `cargo xtask build-ebpf`

use std::fs;

use anyhow::{Context as _, Result};
use xtask::{
    ebpf::{self, Object},
    say, toolchain,
};

pub(crate) fn build_ebpf() -> Result<()> {
    let toolchain = toolchain::install()?;
    for object in Object::ALL {
        let file = ebpf::build(&toolchain, object)?;
        let bytes =
            fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        say::step(format_args!(
            "kernel object {}, {} bytes: {}",
            ebpf::short_hash(&bytes),
            bytes.len(),
            file.display()
        ));
    }
    Ok(())
}
