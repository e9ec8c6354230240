//! `cargo xtask clippy`

use anyhow::Result;
use xtask::{command, debian, ebpf, packages, say, toolchain};

use super::cargo::cargo;

pub(crate) fn clippy() -> Result<()> {
    let toolchain = toolchain::install()?;
    if toolchain.is_debians() {
        debian::install(&packages::CLIPPY)?;
    }
    say::step("linting the kernel programs");
    ebpf::lint(&toolchain)?;
    say::step("linting everything else");
    command::run(&mut cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--exclude",
        "steer-ebpf",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))
}
