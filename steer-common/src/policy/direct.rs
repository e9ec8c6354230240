//! The steps of policies as plain calls, for views that no verifier looks at.

use super::{least, scan::Scan, steps::Steps, sticky};
use crate::view::View;

/// A view whose steps are plain calls.
pub trait Direct: View + Sized {}

impl<V: Direct> Steps for V {
    fn admits(&self, slot: u32) -> bool {
        self.worker(slot).is_some()
    }

    fn least(&self) -> Option<u32> {
        least::choose(self)
    }

    fn rendezvous(&self, key: u32) -> Option<u32> {
        sticky::rendezvous(self, key)
    }

    fn least_part(&self, start: u32, first: u32, scan: Scan) -> Scan {
        least::part(self, start, first, scan)
    }

    fn rendezvous_part(&self, first: u32, key: u32, best: u64) -> u64 {
        sticky::part(self, first, key, best)
    }

    fn least_cost(&self, slot: u32, bound: u64) -> u64 {
        least::cost(self, slot, bound)
    }

    fn sticky_score(&self, slot: u32, client: u32) -> u64 {
        sticky::score(self, slot, client)
    }
}
