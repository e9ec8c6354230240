//! The policies: pure functions from a view of the group to a slot.

mod least;
mod rr;

use crate::{limits::MAX_TRIES, view::View};

/// The rule for choosing a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    /// Round robin, weighted and smooth.
    Rr = 1,
    /// The fewest connections open or in handshake, divided by the weight.
    Least = 2,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::Rr, Self::Least];

    /// The policy that a map holds. An unknown number is round robin, which needs nothing but
    /// turns.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            2 => Self::Least,
            _ => Self::Rr,
        }
    }

    /// The policy's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Least => "least",
        }
    }

    /// Names a slot, or none where no worker is live.
    #[inline(always)]
    fn choose<V: View>(self, view: &V) -> Option<u32> {
        match self {
            Self::Rr => rr::choose(view),
            Self::Least => least::choose(view),
        }
    }

    /// Chooses an eligible slot that `accept` takes; `accept` is asked for one slot after another
    /// until it returns true.
    ///
    /// Where the policy's choice isn't eligible (round robin goes by turns laid out earlier) or is
    /// not accepted, the next ticket's turn is tried: its taker's share is spread over all others.
    /// Trying the next slot for the same ticket would give all of it to one neighbour.
    #[inline(always)]
    pub fn select<V: View>(self, view: &V, accept: impl Fn(u32) -> bool) -> Selection {
        let Some(mut slot) = self.choose(view) else {
            return Selection::NoWorker;
        };
        let mut refused = false;
        for _ in 0..MAX_TRIES {
            if view.eligible(slot).is_some() {
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
    /// No eligible slot was found.
    NoWorker,
    /// Slots were found, and none was accepted.
    Refused,
}
