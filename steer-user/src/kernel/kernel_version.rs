//! The oldest kernel that steer runs on.

use std::io;

/// Linux 5.14 lets an SK_REUSEPORT program see its socket. Linux 5.12 has atomic additions that
/// return the former value.
const FLOOR: (u32, u32) = (5, 14);

/// From this version on, bpf(2) only checks who owns a pin, unless the call creates something.
const OPEN_MAPS: (u32, u32) = (5, 19);

/// Why steer refuses this kernel.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The kernel is older than the oldest that steer runs on.
    #[error("Linux {release} is older than 5.14")]
    TooOld {
        /// The kernel's release.
        release: String,
    },
    /// The version could not be read.
    #[error("failed to read the kernel's release")]
    Unreadable(#[source] io::Error),
}

/// Checks that the running kernel is new enough.
pub fn require() -> Result<(), VersionError> {
    let release = release()?;
    // A release that doesn't begin with numbers isn't refused here. The kernel itself refuses
    // what it can't do.
    if parse(&release).is_some_and(|version| version < FLOOR) {
        return Err(VersionError::TooOld { release });
    }
    Ok(())
}

/// Whether this kernel requires CAP_BPF for every use of bpf(2), even on the caller's own maps.
/// Linux before 5.19 does, if `kernel.unprivileged_bpf_disabled` is set as distributions set it.
pub fn guards_maps() -> bool {
    let version = release().ok().and_then(|release| parse(&release));
    version.is_none_or(|version| version < OPEN_MAPS)
}

/// The running kernel's release, as `uname -r` prints it.
pub fn release() -> Result<String, VersionError> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(VersionError::Unreadable)?;
    Ok(release.trim().to_owned())
}

/// The first two numbers of a release.
pub fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{FLOOR, parse};

    #[test]
    fn releases_of_distributions() {
        assert_eq!(parse("6.1.0-49-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse("5.10.0"), Some((5, 10)));
        assert_eq!(parse("6.12+deb13-amd64"), Some((6, 12)));
        assert_eq!(parse("garbage"), None);
        assert!(parse("5.10.0-35-amd64") < Some(FLOOR));
        assert!(parse("5.14.0-503.el9") >= Some(FLOOR));
    }
}
