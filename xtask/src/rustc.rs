//! Rust compilers that can build for the BPF target.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// The oldest compiler that builds the workspace, which is the workspace's `rust-version`.
const OLDEST: (u32, u32) = (1, 88);

/// A compiler with its cargo and the source of its library. The source is needed because the BPF
/// target has no prebuilt `core`.
#[derive(Clone, Debug)]
pub struct Rustc {
    /// The compiler.
    pub rustc: PathBuf,
    /// The cargo beside it.
    pub cargo: PathBuf,
    /// Major version of the compiler's LLVM.
    pub llvm: u32,
}

impl Rustc {
    /// The compiler in a `bin` directory.
    pub fn in_dir(bin: &Path) -> Result<Self> {
        let rustc = bin.join("rustc");
        let cargo = bin.join("cargo");
        for program in [&rustc, &cargo] {
            if !command::is_program(program) {
                bail!("there is no {}", program.display());
            }
        }
        let text = command::output(Command::new(&rustc).arg("-vV"))?;
        let version = Version::parse(&text)
            .with_context(|| format!("failed to understand the version of {}", rustc.display()))?;
        if version.release < OLDEST {
            bail!(
                "{} is {}.{}, too old: steer needs {}.{}",
                rustc.display(),
                version.release.0,
                version.release.1,
                OLDEST.0,
                OLDEST.1
            );
        }
        let source = bin.with_file_name("lib/rustlib/src/rust/library/Cargo.lock");
        if !source.exists() {
            bail!(
                "{} lacks the source of Rust's library, {}",
                rustc.display(),
                source.display()
            );
        }
        Ok(Self {
            rustc,
            cargo,
            llvm: version.llvm,
        })
    }

    /// The compiler of a rustup toolchain.
    pub fn in_rustup(toolchain: &str) -> Result<Self> {
        let rustup = command::find("rustup").context("there is no rustup")?;
        let rustc = command::output(Command::new(rustup).args([
            "which",
            "--toolchain",
            toolchain,
            "rustc",
        ]))?;
        let rustc = Path::new(rustc.trim());
        Self::in_dir(rustc.parent().unwrap_or(rustc))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    release: (u32, u32),
    llvm: u32,
}

impl Version {
    /// Reads what `rustc -vV` prints.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let mut release = field("release: ")?.split('.');
        let mut llvm = field("LLVM version: ")?.split('.');
        Some(Self {
            release: (release.next()?.parse().ok()?, release.next()?.parse().ok()?),
            llvm: llvm.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn reads_a_nightly() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let version = Version {
            release: (1, 97),
            llvm: 22,
        };
        assert_eq!(Version::parse(text), Some(version));
    }

    #[test]
    fn a_compiler_without_llvm_is_none() {
        assert_eq!(Version::parse("release: 1.97.0\n"), None);
    }
}
