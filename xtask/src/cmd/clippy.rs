//! `cargo xtask clippy`

use std::{panic::resume_unwind, thread};

use anyhow::{Context as _, Result};
use xtask::{command, debian, ebpf, packages, say, toolchain};

use super::cargo::cargo;

pub(crate) fn clippy() -> Result<()> {
    let toolchain = toolchain::install()?;
    if toolchain.is_debians() {
        debian::install(&packages::CLIPPY)?;
    }
    // The fuzz targets are a workspace of their own. Nothing but `cargo xtask fuzz` builds it.
    let fuzz = [
        "--manifest-path",
        "tests/fuzz/libfuzzer/Cargo.toml",
        "--format-version",
        "1",
    ];
    command::output(cargo(&["metadata", "--locked"]).args(fuzz)).context(
        "tests/fuzz/libfuzzer/Cargo.lock isn't up to date: run `cargo metadata` beside it",
    )?;
    say::step("linting the kernel programs and everything else");
    // Both run at once. Most of the time for the kernel programs goes into the library that they
    // are built with, which is one crate.
    thread::scope(|scope| {
        let programs = scope.spawn(|| ebpf::lint(&toolchain));
        let rest = command::run(&mut cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--exclude",
            "steer-ebpf",
            "--all-targets",
            "--",
            "-Dwarnings",
        ]));
        let programs = programs.join().unwrap_or_else(|panic| resume_unwind(panic));
        programs.and(rest)
    })
}
