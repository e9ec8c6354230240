//! Debian's packages that the repository's commands need.
//!
//! This is the one list of them. On Debian each command installs what is missing of its part.
//! `cargo xtask bare` shows that nothing is missing from the list.

use anyhow::{Result, bail};

use crate::{command, debian};

/// What must be there before any of the commands can be built, besides rustup: a C linker, and the
/// certificates by which cargo checks the registry.
pub const BEFORE: [&str; 3] = ["ca-certificates", "gcc", "libc6-dev"];

/// Debian's Rust compiler with its cargo and its source, and what they link with. The package of
/// its LLVM comes besides: only the compiler tells which version that is.
pub const RUST: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "gcc", "libc6-dev"];

/// The clippy of Debian's compiler, for `cargo xtask clippy`.
pub const CLIPPY: [&str; 1] = ["rust-web-clippy"];

/// What libFuzzer is built with, for `cargo xtask fuzz`.
pub const FUZZ: [&str; 1] = ["g++"];

/// What makes a system from nothing, for `cargo xtask bare`.
pub const BARE: [&str; 1] = ["debootstrap"];

/// What the tests run, and what the servers run that they test with: a program, and the package
/// that has it.
///
/// A program counts wherever it comes from: npm is often not Debian's. Of what every Debian has
/// (`Essential: yes`) only util-linux is named. Bun and PM2 come from npm.
pub const TESTS: [(&str, &str); 8] = [
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx"),
    ("npm", "npm"),
    // By `ps` PM2 finds the processes that it ends. Without it a restart starts a worker twice.
    ("ps", "procps"),
    ("python3", "python3"),
    ("unshare", "util-linux"),
];

/// What the tests of real servers need in addition (`cargo xtask test --servers`). gunicorn and
/// uWSGI come from PyPI, uWSGI as source, and Node comes from npm.
pub const SERVERS: [(&str, &str); 4] = [
    ("haproxy", "haproxy"),
    ("gcc", "gcc"),
    ("python3-config", "python3-dev"),
    // The name of its file has the version in it. `python3 -m venv` needs the package.
    ("ensurepip", "python3-venv"),
];

/// What the test with a real browser needs in addition (`cargo xtask test --browser`): half a
/// gigabyte.
pub const BROWSER: [(&str, &str); 1] = [("chromium", "chromium")];

/// What `cargo xtask vm` runs. Everything else that it needs is unpacked below the clone's
/// `target`.
pub const MACHINES: [(&str, &str); 4] = [
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("strip", "binutils"),
    ("tar", "tar"),
];

/// Installs the packages whose programs aren't here.
///
/// # Errors
/// Fails if apt fails. On a system without apt, fails if something is missing.
pub fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| command::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !debian::is_here() {
        bail!("{} are needed here: install them first", missing.join(", "));
    }
    debian::install(&missing)
}
