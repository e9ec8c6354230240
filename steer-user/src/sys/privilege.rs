//! What the caller may do. steer asks before it tries anything, so that it can name what is
//! missing.

use std::{fmt, io};

use rustix::thread::{CapabilitySet, capabilities};

/// A capability that some command of steer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To load programs, make maps, and attach to a group.
    Bpf,
    /// To read kernel memory and follow kernel events in programs.
    Perfmon,
    /// To see into other users' processes and take their listeners.
    SysPtrace,
    /// To list the descriptors of other users' processes, and see other users' pins.
    DacReadSearch,
    /// To change another user's pins.
    DacOverride,
    /// To end another user's steer.
    Kill,
    /// To mount a bpffs, or enter a network namespace.
    SysAdmin,
    /// To change the network's settings.
    NetAdmin,
}

impl Capability {
    /// Its name as the kernel's manual writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::Kill => "CAP_KILL",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::NetAdmin => "CAP_NET_ADMIN",
        }
    }

    /// The capabilities each of which grants this one.
    fn granted_by(self) -> CapabilitySet {
        match self {
            // CAP_SYS_ADMIN still includes the capabilities that Linux 5.8 split off from it.
            Self::Bpf => CapabilitySet::BPF | CapabilitySet::SYS_ADMIN,
            Self::Perfmon => CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN,
            Self::SysPtrace => CapabilitySet::SYS_PTRACE,
            Self::DacReadSearch => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE,
            Self::DacOverride => CapabilitySet::DAC_OVERRIDE,
            Self::Kill => CapabilitySet::KILL,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why the caller may not do something.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Capabilities are missing.
    #[error("not permitted: {} missing; run steer with sudo", names(.0))]
    Missing(Vec<Capability>),
    /// The kernel didn't say which capabilities this process has.
    #[error("failed to read the capabilities of this process")]
    Unknown(#[source] io::Error),
}

/// Those of `required` that aren't in effect for the calling thread.
pub fn missing(required: &[Capability]) -> io::Result<Vec<Capability>> {
    let effective = capabilities(None)?.effective;
    Ok(lacking(effective, required))
}

/// Succeeds if all of `required` are in effect for the calling thread.
pub fn require(required: &[Capability]) -> Result<(), PrivilegeError> {
    let missing = missing(required).map_err(PrivilegeError::Unknown)?;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PrivilegeError::Missing(missing))
    }
}

fn lacking(effective: CapabilitySet, required: &[Capability]) -> Vec<Capability> {
    let mut lacking = Vec::new();
    for capability in required {
        // A capability that is needed for several things is named once.
        if !effective.intersects(capability.granted_by()) && !lacking.contains(capability) {
            lacking.push(*capability);
        }
    }
    lacking
}

fn names(missing: &[Capability]) -> String {
    let names: Vec<_> = missing.iter().map(|capability| capability.name()).collect();
    let (noun, verb) = match names.len() {
        1 => ("capability", "is"),
        _ => ("capabilities", "are"),
    };
    format!("the {noun} {} {verb}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let has = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        let required = [
            Capability::Bpf,
            Capability::Perfmon,
            Capability::SysPtrace,
            Capability::Perfmon,
        ];
        let missing = lacking(has, &required);
        assert_eq!(missing, [Capability::Perfmon, Capability::SysPtrace]);
        assert_eq!(
            PrivilegeError::Missing(missing).to_string(),
            "not permitted: the capabilities CAP_PERFMON, CAP_SYS_PTRACE are missing; run steer with sudo"
        );
    }

    #[test]
    fn the_old_capability_still_grants_what_was_split_off() {
        let required = [
            Capability::Bpf,
            Capability::Perfmon,
            Capability::SysAdmin,
            Capability::NetAdmin,
        ];
        let missing = lacking(CapabilitySet::SYS_ADMIN, &required);
        assert_eq!(missing, [Capability::NetAdmin]);
    }

    #[test]
    fn nothing_required_is_never_missing() {
        require(&[]).expect("nothing is missing");
    }
}
