//! bpf-linker. It must be built against the LLVM of the compiler whose bitcode it reads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, isolation::isolated, rustc::Rustc, say, workspace};

/// The release of bpf-linker that is built.
const VERSION: &str = "0.13.0";
/// The versions of LLVM that this release can be built against.
const LLVMS: [u32; 3] = [21, 22, 23];

/// The linker that [`install`] built for this LLVM.
pub fn own(llvm: u32) -> Option<PathBuf> {
    let linker = dir(llvm).join("bin/bpf-linker");
    command::is_program(&linker).then_some(linker)
}

/// The linker that the user has in `PATH`. Which LLVM is in it can't be told without linking.
pub fn in_path() -> Option<PathBuf> {
    command::find("bpf-linker")
}

/// Builds the linker inside the clone. The compiler's LLVM is installed in `prefix`.
pub fn install(rustc: &Rustc, prefix: &Path) -> Result<PathBuf> {
    let llvm = rustc.llvm;
    if let Some(linker) = own(llvm) {
        return Ok(linker);
    }
    if !LLVMS.contains(&llvm) {
        bail!("bpf-linker {VERSION} can't be built against LLVM {llvm}");
    }
    say::step(format_args!(
        "building bpf-linker {VERSION} against LLVM {llvm}"
    ));
    let root = dir(llvm);
    let build = workspace::tools_dir().join("build");
    let mut cargo = isolated(rustc, &rustc.cargo);
    cargo
        .env("LLVM_PREFIX", prefix)
        // LLVM takes most of the linker's time when it runs, and LLVM is built already.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .arg("--no-default-features")
        .arg(format!("--features=llvm-{llvm}"))
        .arg("--root")
        .arg(&root)
        .arg("--target-dir")
        .arg(&build);
    command::run(&mut cargo).context("failed to build bpf-linker")?;
    // From here on only the program is of use.
    fs::remove_dir_all(&build).with_context(|| format!("failed to remove {}", build.display()))?;
    own(llvm).with_context(|| format!("cargo put no bpf-linker into {}", root.display()))
}

fn dir(llvm: u32) -> PathBuf {
    workspace::tools_dir().join(format!("bpf-linker-{VERSION}-llvm-{llvm}"))
}
