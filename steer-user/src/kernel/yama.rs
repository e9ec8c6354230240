//! Whether Yama lets anybody take another process's descriptors.

use std::fs;

const PATH: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// The scope in which nobody may attach to another process; it can't be lowered again.
const NOBODY: &str = "3";

/// Nobody may take a worker's listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no process may take a worker's listener: kernel.yama.ptrace_scope is 3, which only a boot changes"
)]
pub struct Forbidden;

/// Checks that Yama leaves it to CAP_SYS_PTRACE. Linux 3.4; without Yama it does.
pub fn require() -> Result<(), Forbidden> {
    match fs::read_to_string(PATH) {
        Ok(scope) if scope.trim() == NOBODY => Err(Forbidden),
        _ => Ok(()),
    }
}
