//! How to start a cargo inside a cargo.

use std::{env, path::Path, process::Command};

use crate::rustc::Rustc;

/// A command of the toolchain: its cargo, or a program that starts its cargo. Nothing of the cargo
/// around this process leaks into the command.
pub fn isolated(rustc: &Rustc, program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_outer_cargo) {
            command.env_remove(name);
        }
    }
    command
        .env("CARGO", &rustc.cargo)
        .env("RUSTC", &rustc.rustc);
    command
}

/// Whether a variable was set by, or for, the cargo that this process runs under. If such a
/// variable stayed, it would point the inner cargo at the outer one's compiler, flags or target
/// directory. Variables that say how to reach the registry, and how to print, stay.
fn is_of_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let of_cargo = name == "CARGO" || name.starts_with("CARGO_");
    let of_rustc = name.starts_with("RUSTC") || name.starts_with("RUSTDOC") || name == "RUSTFLAGS";
    (of_cargo && !KEPT.iter().any(|kept| name.starts_with(kept)))
        || of_rustc
        || name == "RUSTUP_TOOLCHAIN"
}

#[cfg(test)]
mod tests {
    use super::is_of_outer_cargo;

    #[test]
    fn the_outer_cargo_does_not_leak() {
        for name in [
            "CARGO",
            "CARGO_TARGET_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MAKEFLAGS",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(is_of_outer_cargo(name), "{name} leaks");
        }
    }

    #[test]
    fn the_way_to_the_registry_stays() {
        for name in ["CARGO_HOME", "CARGO_HTTP_CAINFO", "HTTPS_PROXY", "PATH"] {
            assert!(!is_of_outer_cargo(name), "{name} is lost");
        }
    }
}
