//! How connections, or requests, are given to workers.

use core::fmt;

use crate::policy::Policy;

/// steer's policies, and what they are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Any worker for any connection, which is what the kernel's hash comes to.
    Random,
    /// steer's policy of that name.
    Rr,
    /// steer's policy of that name.
    P2c,
    /// steer's policy of that name.
    Least,
    /// steer's policy of that name.
    Sticky,
    /// steer's policy of that name.
    Hash,
    /// Join the shortest queue: the worker with the fewest requests to answer. In a real system
    /// nobody knows which worker that is.
    Jsq,
    /// One queue of requests, from which whoever is free takes the next. This is the ideal.
    Central,
}

impl Discipline {
    /// Every discipline.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::Rr,
        Self::P2c,
        Self::Least,
        Self::Sticky,
        Self::Hash,
        Self::Jsq,
        Self::Central,
    ];

    /// The discipline's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Rr => "rr",
            Self::P2c => "p2c",
            Self::Least => "least",
            Self::Sticky => "sticky",
            Self::Hash => "hash",
            Self::Jsq => "jsq",
            Self::Central => "central",
        }
    }

    /// steer's policy of this name. None if this is none of steer's policies.
    pub const fn policy(self) -> Option<Policy> {
        match self {
            Self::Rr => Some(Policy::Rr),
            Self::P2c => Some(Policy::P2c),
            Self::Least => Some(Policy::Least),
            Self::Sticky => Some(Policy::Sticky),
            Self::Hash => Some(Policy::Hash),
            Self::Random | Self::Jsq | Self::Central => None,
        }
    }
}

impl fmt::Display for Discipline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}
