//! What `steer demo` says and shows.

/// The beginning of the line that says what is measured now.
pub fn measuring(policy: &str) -> String {
    format!("measuring {policy}")
}

/// The row of the table without steer; the others begin with their policy.
pub const KERNELS_HASH: &str = "kernel hash";
