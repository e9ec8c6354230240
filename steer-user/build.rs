//! Embeds the kernel object, built by the same recipe as `cargo xtask build-ebpf`.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use xtask::{
    ebpf::{self, Object},
    toolchain, workspace,
};

/// Set to 1, the object is left out even where the toolchain is.
const SKIP: &str = "STEER_SKIP_EBPF";

fn main() -> Result<()> {
    println!("cargo::rerun-if-env-changed={SKIP}");
    for input in ebpf::INPUTS {
        let input = workspace::root().join(input);
        println!("cargo::rerun-if-changed={}", input.display());
    }
    let object = object()?;
    let hash = if object.is_empty() {
        String::new()
    } else {
        ebpf::short_hash(&object)
    };
    println!("cargo::rustc-env=STEER_OBJECT_HASH={hash}");
    let file =
        PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join("steer-ebpf.o");
    fs::write(&file, object).with_context(|| format!("failed to write {}", file.display()))
}

/// The kernel object, empty where it can't be built: steer then says so when it needs it.
fn object() -> Result<Vec<u8>> {
    if env::var_os(SKIP).is_some_and(|skip| skip == "1") {
        println!("cargo::warning={SKIP} is set: this steer has no kernel object");
        return Ok(Vec::new());
    }
    let Some(toolchain) = toolchain::find() else {
        println!(
            "cargo::warning=the eBPF toolchain is missing: this steer has no kernel object; \
             `cargo xtask build` installs the one and embeds the other"
        );
        // No such file: the next build looks for the toolchain again.
        println!("cargo::rerun-if-changed=toolchain-missing");
        return Ok(Vec::new());
    };
    for program in [&toolchain.rustc.rustc, &toolchain.linker] {
        println!("cargo::rerun-if-changed={}", program.display());
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    let file = ebpf::build_for(&toolchain, Object::Steer, &arch)?;
    fs::read(&file).with_context(|| format!("failed to read {}", file.display()))
}
