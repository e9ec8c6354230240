//! `rr`: smooth weighted round robin.
//!
//! The order of turns is laid out beforehand ([`crate::turns`]). So a selection is one atomic
//! addition and one look-up for any number of workers, and every window of `sum(weights)` tickets
//! gives each worker exactly its weight.

use crate::view::View;

#[inline(always)]
pub(super) fn choose<V: View>(view: &V) -> Option<u32> {
    view.turn(view.ticket())
}
