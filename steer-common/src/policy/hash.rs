//! `hash`: by a hash of the connection, as the kernel does it, over the workers that may be
//! selected.
//!
//! This is `sticky` by the connection's addresses and ports in place of the client's address.
//! Weights count. When a worker is drained or ejected, only what would have been that worker's
//! goes elsewhere. Taking the hash modulo the number of workers would be cheaper, and would move
//! nearly everything.

use super::steps::Steps;

#[inline(always)]
pub(super) fn choose<V: Steps>(view: &V) -> Option<u32> {
    view.rendezvous(view.flow())
}
