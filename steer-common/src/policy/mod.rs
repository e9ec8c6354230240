//! The policies: pure functions from a view of the group to a slot, one file each.
//!
//! To add a policy, add a file with a `choose` function, a variant of [`Policy`], an entry in
//! [`Policy::ALL`], and a line in `from_raw`, `name` and `choose`. [`Policy::select`] is the same
//! for every policy. docs/architecture.md has the rest.

mod direct;
mod hash;
pub mod least;
pub mod mix;
mod p2c;
mod rr;
mod scan;
mod steps;
pub mod sticky;

pub use direct::Direct;
pub use scan::Scan;
pub use steps::Steps;

use crate::limits::MAX_TRIES;

/// The rule for choosing a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    /// Round robin, weighted and smooth.
    Rr = 1,
    /// The worker that would begin with the connection first.
    Least = 2,
    /// Of two random workers, the one that would begin first.
    P2c = 3,
    /// Always the same worker for the same client address.
    Sticky = 4,
    /// The kernel's hash, over the workers that may be selected.
    Hash = 5,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 5] = [Self::Least, Self::Rr, Self::P2c, Self::Sticky, Self::Hash];

    /// The policy that a map holds. An unknown number is taken for round robin, which needs
    /// nothing but turns.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            2 => Self::Least,
            3 => Self::P2c,
            4 => Self::Sticky,
            5 => Self::Hash,
            _ => Self::Rr,
        }
    }

    /// The policy's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Least => "least",
            Self::P2c => "p2c",
            Self::Sticky => "sticky",
            Self::Hash => "hash",
        }
    }

    /// Names a slot. None if no worker is live.
    #[inline(always)]
    fn choose<V: Steps>(self, view: &V) -> Option<u32> {
        match self {
            Self::Rr => rr::choose(view),
            Self::Least => view.least(),
            Self::P2c => p2c::choose(view),
            Self::Sticky => sticky::choose(view),
            Self::Hash => hash::choose(view),
        }
    }

    /// Chooses a slot that may be selected and that `accept` takes. `accept` is asked for one slot
    /// after another until it returns true.
    ///
    /// The policy's choice may be a slot that may not be selected, because round robin goes by
    /// turns that were laid out earlier. If so, or if `accept` refuses the choice, the turn of the
    /// next ticket is tried. That spreads the share of the missing worker over all others. If the
    /// next slot were tried for the same ticket, one neighbour would get all of the share.
    #[inline(always)]
    pub fn select<V: Steps>(self, view: &V, accept: impl Fn(u32) -> bool) -> Selection {
        let Some(mut slot) = self.choose(view) else {
            return Selection::NoWorker;
        };
        let mut refused = false;
        for _ in 0..MAX_TRIES {
            if view.admits(slot) {
                if accept(slot) {
                    return Selection::Slot(slot);
                }
                refused = true;
            }
            let Some(next) = rr::choose(view) else {
                return Selection::NoWorker;
            };
            slot = next;
        }
        if refused {
            Selection::Refused
        } else {
            Selection::NoWorker
        }
    }
}

/// How a selection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// This slot was chosen and accepted.
    Slot(u32),
    /// No slot was found that may be selected.
    NoWorker,
    /// Slots were found that may be selected, and none was accepted.
    Refused,
}
