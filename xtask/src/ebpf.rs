//! The one recipe that builds the kernel objects.

use std::{
    env::{self, consts::ARCH},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{command, isolation::isolated, toolchain::Toolchain, workspace};

/// The target of the kernel programs. Every architecture that steer runs on is little-endian.
const TARGET: &str = "bpfel-unknown-none";

/// A kernel object: the one binary of a package. The binary has the package's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// steer's own kernel programs.
    Steer,
    /// The policies in a program that the tests can run.
    Policies,
}

impl Object {
    /// Every object.
    pub const ALL: [Self; 2] = [Self::Steer, Self::Policies];

    /// The name of the package.
    const fn name(self) -> &'static str {
        match self {
            Self::Steer => "steer-ebpf",
            Self::Policies => "steer-policies",
        }
    }

    /// Features that the package is built with.
    const fn features(self) -> &'static str {
        match self {
            Self::Steer => "",
            Self::Policies => "kernel",
        }
    }

    /// The file that the object is in after it was built.
    pub fn file(self) -> PathBuf {
        workspace::bpf_target_dir()
            .join(TARGET)
            .join("release")
            .join(self.name())
    }
}

/// What steer's own object depends on, relative to the workspace's root. If the recipe itself
/// changes, this library is built anew.
pub const INPUTS: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "steer-common/Cargo.toml",
    "steer-common/src",
    "steer-ebpf/Cargo.toml",
    "steer-ebpf/src",
];

/// Builds a kernel object for programs of a host of architecture `arch`, and returns its file.
pub fn build_for(toolchain: &Toolchain, object: Object, arch: &str) -> Result<PathBuf> {
    let mut build = recipe(toolchain, &toolchain.rustc.cargo, arch, "build", &[]);
    build.args(["--package", object.name(), "--features", object.features()]);
    command::run(&mut build).with_context(|| {
        format!(
            "failed to build the kernel object {} with {} and {}",
            object.name(),
            toolchain.rustc.rustc.display(),
            toolchain.linker.display()
        )
    })?;
    let file = object.file();
    anyhow::ensure!(file.exists(), "cargo made no {}", file.display());
    Ok(file)
}

/// Builds a kernel object for this host, and returns its file.
pub fn build(toolchain: &Toolchain, object: Object) -> Result<PathBuf> {
    build_for(toolchain, object, ARCH)
}

/// Lints the kernel programs. A warning is an error. If there is no clippy beside the compiler,
/// only the compiler's own lints run.
pub fn lint(toolchain: &Toolchain) -> Result<()> {
    let clippy = toolchain.rustc.cargo.with_file_name("cargo-clippy");
    let packages = Object::ALL.iter();
    let all = packages.flat_map(|object| ["--package", object.name()]);
    let all = all.chain(["--all-features"]);
    let mut lint = if command::is_program(&clippy) {
        // clippy is started by its file. If cargo were asked for the subcommand, it would start
        // rustup's proxy of clippy.
        let mut lint = recipe(toolchain, &clippy, ARCH, "clippy", &[]);
        lint.args(all).args(["--", "-Dwarnings"]);
        lint
    } else {
        let cargo = &toolchain.rustc.cargo;
        let mut lint = recipe(toolchain, cargo, ARCH, "check", &["-Dwarnings"]);
        lint.args(all);
        lint
    };
    command::run(&mut lint).context("failed to lint the kernel programs")
}

/// The name of an object for people: the first 12 hexadecimal digits of its SHA-256.
pub fn short_hash(object: &[u8]) -> String {
    let mut hash = String::with_capacity(12);
    for byte in Sha256::digest(object).iter().take(6) {
        // Writing to a String can't fail.
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

/// A command with all that the kernel programs need. `cargo` is cargo, or a program that takes the
/// same arguments and starts cargo.
fn recipe(
    toolchain: &Toolchain,
    cargo: &Path,
    arch: &str,
    subcommand: &str,
    more_flags: &[&str],
) -> Command {
    let root = workspace::root();
    let mut flags = vec![
        // BTF is made from the debug information. Without these two flags the build succeeds and
        // only loading fails.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // v3 has the atomic fetch-and-add. The flag can't be left to the linker: it generates code
        // from bitcode that carries the CPU with it.
        "-Ctarget-cpu=v3".to_owned(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // The same source makes the same object wherever the clone and the registry's crates are.
        format!("--remap-path-prefix={}=steer", root.display()),
        format!("--remap-path-prefix={}=cargo", cargo_home().display()),
    ];
    flags.extend(more_flags.iter().copied().map(str::to_owned));

    let mut command = isolated(&toolchain.rustc, cargo);
    command
        .current_dir(root)
        // The compiler may be a stable one, and build-std is not stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        // The workspace's release profile is made for steer. bpf-linker links bitcode as a whole
        // and optimizes it once, so an LTO by rustc before it adds nothing.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .args([subcommand, "--locked", "--release"])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(workspace::bpf_target_dir());
    command
}

/// Where cargo keeps the sources of the registry's crates.
fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::{INPUTS, short_hash};
    use crate::workspace;

    #[test]
    fn inputs_exist() {
        for input in INPUTS {
            assert!(workspace::root().join(input).exists(), "{input}");
        }
    }

    #[test]
    fn short_hash_is_the_start_of_sha256() {
        assert_eq!(short_hash(b""), "e3b0c44298fc");
    }
}
