//! What is known of a kernel before it is started.

use super::version::Version;

/// The oldest kernel that steer supports.
const SUPPORTED: [u64; 3] = [5, 14, 0];

/// What must be found on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// steer refuses the kernel.
    Refusal,
    /// steer works, and the trial of migration has this outcome, in the words of the tests.
    Trial(&'static str),
}

/// What must be found on this kernel.
pub(super) fn of(version: &Version) -> Expected {
    let triple = version.triple();
    if triple < SUPPORTED {
        Expected::Refusal
    } else if wakes_nobody(triple) {
        Expected::Trial("not-woken")
    } else {
        Expected::Trial("sound")
    }
}

/// Whether this is one of Debian's kernels without the fix of CVE-2026-46015. Series that are
/// fixed in their newest build aren't listed here.
fn wakes_nobody(triple: [u64; 3]) -> bool {
    match triple {
        [6, 16 | 17 | 19, _] => true,
        [6, 18, patch] => patch <= 15,
        _ => false,
    }
}
