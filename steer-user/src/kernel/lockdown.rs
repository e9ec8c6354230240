//! Whether the kernel lets nobody read its memory, not even root.

use std::fs;

const PATH: &str = "/sys/kernel/security/lockdown";

/// The kernel is locked down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel is locked down ({PATH} says confidentiality), so no program may read its memory; boot \
     with lockdown=integrity, or without lockdown"
)]
pub struct LockedDown;

/// Checks that programs may read kernel memory. The kernel has this setting since Linux 5.4.
pub fn require() -> Result<(), LockedDown> {
    // If the file doesn't exist, nothing is locked down, or securityfs isn't mounted. Then the
    // kernel itself refuses what it doesn't allow.
    match fs::read_to_string(PATH) {
        Ok(modes) if is_confidential(&modes) => Err(LockedDown),
        _ => Ok(()),
    }
}

/// Whether the mode in force keeps programs from reading kernel memory. That mode is in brackets.
pub fn is_confidential(modes: &str) -> bool {
    modes
        .split_ascii_whitespace()
        .any(|mode| mode == "[confidentiality]")
}

#[cfg(test)]
mod tests {
    use super::is_confidential;

    #[test]
    fn the_mode_in_brackets_is_in_force() {
        assert!(is_confidential("none integrity [confidentiality]\n"));
        assert!(!is_confidential("none [integrity] confidentiality\n"));
        assert!(!is_confidential("[none] integrity confidentiality\n"));
        assert!(!is_confidential("[none] not[confidentiality]\n"));
    }
}
