//! Whether Yama allows any process to take another process's descriptors.

use std::fs;

const PATH: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// The scope in which no process may attach to another. It can't be lowered again.
const NOBODY: &str = "3";

/// No process may take a worker's listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no process may take a worker's listener, because kernel.yama.ptrace_scope is 3; only a reboot changes that"
)]
pub struct Forbidden;

/// Checks that Yama allows a process with CAP_SYS_PTRACE to take descriptors. Yama has this
/// setting since Linux 3.4. A kernel without Yama allows it.
pub fn require() -> Result<(), Forbidden> {
    match fs::read_to_string(PATH) {
        Ok(scope) if scope.trim() == NOBODY => Err(Forbidden),
        _ => Ok(()),
    }
}
