//! The steps that policies are made of.

use super::scan::Scan;
use crate::view::View;

/// The steps of policies over a [`View`]. Policies call each other, and parts of themselves, by
/// these.
///
/// In the kernel each step is a function of its own. The verifier looks at such a function once,
/// and not again on each path that leads to it. Everywhere else a view is [`super::Direct`].
pub trait Steps: View + Sized {
    /// Whether the worker of a slot may be selected.
    fn admits(&self, slot: u32) -> bool;

    /// [`super::least::choose`].
    fn least(&self) -> Option<u32>;

    /// [`super::sticky::rendezvous`] of a key.
    fn rendezvous(&self, key: u32) -> Option<u32>;

    /// [`super::least::part`] of a scan.
    fn least_part(&self, start: u32, first: u32, scan: Scan) -> Scan;

    /// [`super::sticky::part`] of a scan.
    fn rendezvous_part(&self, first: u32, key: u32, best: u64) -> u64;

    /// [`super::least::cost`] of a slot.
    fn least_cost(&self, slot: u32, bound: u64) -> u64;

    /// [`super::sticky::score`] of a slot.
    fn sticky_score(&self, slot: u32, client: u32) -> u64;
}
