//! The policies: pure functions from a view of the group to a slot, one file each.
//!
//! To add one: a file with a `choose` function, a variant of [`Policy`], a line in each of its
//! functions.

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
    /// The one of two random workers that would begin first.
    P2c = 3,
    /// Always the same worker for the same client address.
    Sticky = 4,
    /// The kernel's hash, over the workers that may be selected.
    Hash = 5,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 5] = [Self::Least, Self::Rr, Self::P2c, Self::Sticky, Self::Hash];

    /// The policy that a map holds. An unknown number is round robin, which needs nothing but
    /// turns.
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

    /// Names a slot, or none where no worker is live.
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

    /// Chooses a slot that may be selected and that `accept` takes; `accept` is asked for one slot
    /// after another until it returns true.
    ///
    /// Where the policy's choice may not be selected (round robin goes by turns laid out earlier)
    /// or is not accepted, the next ticket's turn is tried: its taker's share is spread over all
    /// others. Trying the next slot for the same ticket would give all of it to one neighbour.
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
    /// With this slot, accepted.
    Slot(u32),
    /// No slot that may be selected was found.
    NoWorker,
    /// Slots were found, and none was accepted.
    Refused,
}
