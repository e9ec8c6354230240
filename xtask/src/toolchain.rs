//! The eBPF toolchain: a Rust compiler with the source of its library, and a bpf-linker for the
//! same LLVM.
//!
//! Debian's own packages have a compiler, its source and its LLVM that fit together. So on Debian
//! xtask installs everything by itself. On other systems xtask uses a rustup toolchain with the
//! component rust-src, and the bpf-linker in `PATH`, if they are there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{debian, linker, packages, rustc::Rustc, say};

/// Where Debian's compiler is. xtask doesn't look for it in `PATH`, because rustup's proxies come
/// first there.
const DEBIAN_BIN: &str = "/usr/bin";

/// What to do if xtask can't install the toolchain by itself.
const BY_HAND: &str = "\
the eBPF toolchain isn't here and can't be installed by itself. Either, on Debian 12
with bookworm-security among apt's sources:
    apt-get install rustc-web cargo-web rust-web-src llvm-22-dev gcc libc6-dev
or, elsewhere, with rustup:
    rustup toolchain install nightly --profile minimal --component rust-src
    cargo install cargo-binstall
    cargo binstall bpf-linker
then run the same command again";

/// A compiler, and the linker that goes with it.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: Rustc,
    /// The file of bpf-linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Whether the compiler is the one of Debian's packages.
    pub fn is_debians(&self) -> bool {
        debian::is_here() && self.rustc.rustc.starts_with(DEBIAN_BIN)
    }
}

/// Finds the toolchain. None if not all of it is here.
pub fn find() -> Option<Toolchain> {
    let debian = Rustc::in_dir(Path::new(DEBIAN_BIN)).ok().and_then(|rustc| {
        let linker = linker::own(rustc.llvm)?;
        Some(Toolchain { rustc, linker })
    });
    debian.or_else(|| {
        let linker = linker::in_path()?;
        let rustc = Rustc::in_rustup("nightly")
            .or_else(|_missing| Rustc::in_rustup("stable"))
            .ok()?;
        Some(Toolchain { rustc, linker })
    })
}

/// Finds the toolchain, and installs what is missing of it.
///
/// # Errors
/// If xtask can't install it, the error says what to run by hand.
pub fn install() -> Result<Toolchain> {
    if let Some(toolchain) = find() {
        return Ok(toolchain);
    }
    if !debian::is_here() {
        anyhow::bail!(BY_HAND);
    }
    install_from_debian().context(BY_HAND)
}

fn install_from_debian() -> Result<Toolchain> {
    debian::install(&packages::RUST)?;
    let rustc = Rustc::in_dir(Path::new(DEBIAN_BIN))?;
    let llvm = format!("llvm-{}-dev", rustc.llvm);
    debian::install(&[llvm.as_str()])?;
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{}", rustc.llvm));
    let linker = linker::install(&rustc, &prefix)?;
    say::step("the eBPF toolchain is complete");
    Ok(Toolchain { rustc, linker })
}
