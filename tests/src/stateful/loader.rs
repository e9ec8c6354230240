//! What a loader has open.

use std::fs;

use anyhow::Context as _;

/// What a loader has at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Descriptors.
    pub descriptors: usize,
    /// Resident memory in KiB.
    pub resident: u64,
    /// Memory of its own in KiB, resident or not.
    pub data: u64,
}

impl Footprint {
    /// Of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name} of pid {pid}"))
        };
        Ok(Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            resident: kib("VmRSS:")?,
            data: kib("VmData:")?,
        })
    }
}
