//! Debian's packages that the repository's commands need: the one list. On Debian each command installs
//! what of its part is missing. `cargo xtask bare` shows that nothing is missing from the list.

use anyhow::{Result, bail};

use crate::{command, debian};

/// What must be there before any of the commands can be built, besides rustup: a C linker, and the
/// certificates that cargo checks the registry by.
pub const BEFORE: [&str; 3] = ["ca-certificates", "gcc", "libc6-dev"];

/// Debian's compiler, its cargo and its source, and what they link with. Its LLVM comes besides, whose
/// version only the compiler tells.
pub const RUST: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "gcc", "libc6-dev"];

/// Its clippy, for `cargo xtask clippy`.
pub const CLIPPY: [&str; 1] = ["rust-web-clippy"];

/// What libFuzzer is built with, for `cargo xtask fuzz`.
pub const FUZZ: [&str; 1] = ["g++"];

/// What makes a system of nothing, for `cargo xtask bare`.
pub const BARE: [&str; 1] = ["debootstrap"];

/// What the tests run, and the servers that they test with, run: a program, and the package that has
/// it. A program counts wherever it comes from: npm is often not Debian's. Of what every Debian has
/// (`Essential: yes`) only util-linux is named. Bun and PM2 come from npm.
pub const TESTS: [(&str, &str); 8] = [
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx"),
    ("npm", "npm"),
    // PM2 finds by it the processes that it ends: without it a restart starts a worker twice.
    ("ps", "procps"),
    ("python3", "python3"),
    ("unshare", "util-linux"),
];

/// What the tests of real servers run besides (`cargo xtask test --servers`). gunicorn and uWSGI come from
/// PyPI, the latter as source, and Node from npm.
pub const SERVERS: [(&str, &str); 4] = [
    ("haproxy", "haproxy"),
    ("gcc", "gcc"),
    ("python3-config", "python3-dev"),
    // Its file has the version in its name: `python3 -m venv` needs it.
    ("ensurepip", "python3-venv"),
];

/// What the test with a real browser runs besides (`cargo xtask test --browser`): half a gigabyte.
pub const BROWSER: [(&str, &str); 1] = [("chromium", "chromium")];

/// What `cargo xtask vm` runs. Everything else of it is unpacked below the clone's `target`.
pub const MACHINES: [(&str, &str); 4] = [
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("strip", "binutils"),
    ("tar", "tar"),
];

/// Installs the packages whose programs aren't here.
///
/// # Errors
/// Where apt fails; and on a system without it, where something is missing.
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
