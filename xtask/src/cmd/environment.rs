//! Environment variables that are passed on to what runs under sudo or in another system. Both
//! start without any.

use std::{
    env,
    ffi::{OsStr, OsString},
};

/// The variables that are passed on. `PATH` finds programs that aren't Debian's. The others let
/// cargo and npm reach their registries, or say how tests behave.
const PASSED_ON: [&str; 9] = [
    "CI",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "PATH",
    "RUST_BACKTRACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// Variables whose names begin with one of these are passed on as well.
const PASSED_ON_PREFIXES: [&str; 3] = ["STEER_", "npm_config_", "NPM_CONFIG_"];

/// The variables to pass on that are set here, as `env` takes them.
pub(crate) fn passed_on() -> impl Iterator<Item = OsString> {
    env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(is_passed_on))
        .map(|(name, value)| assignment(&name, &value))
}

fn is_passed_on(name: &str) -> bool {
    PASSED_ON.contains(&name)
        || PASSED_ON_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// A variable and its value, as `env` takes it.
pub(crate) fn assignment(name: &OsStr, value: &OsStr) -> OsString {
    let mut assignment = name.to_owned();
    assignment.push("=");
    assignment.push(value);
    assignment
}
