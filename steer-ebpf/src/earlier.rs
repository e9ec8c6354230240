//! Tags connections that were open before their worker was steered, and counts them.
//!
//! A connection is born with its listener's tag; these were born before there was one. The loader
//! says whose each is. From 5.15 on the kernel holds the socket's lock while the iterator looks at
//! it, so that none is closed between the look at its state and the tag.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use steer_common::slot::Tag;

use crate::{
    atomic, groups,
    iterator::Context,
    kernel::{self, offset},
    tags,
};

const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

/// Socket cookie to tag. The loader makes it as large as need be.
#[btf_map]
static EARLIER: HashMap<u64, Tag, 1> = HashMap::new();

#[inline(always)]
pub(crate) fn run(ctx: *mut Context) {
    // SAFETY: the kernel calls the iterator with a valid context.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return;
    }
    let sock = socket as u64;
    let Some(ESTABLISHED | CLOSE_WAIT) = kernel::read::<u8>(sock, offset!(sk_state)) else {
        return;
    };
    let cookie: u64 = kernel::read(sock, offset!(sk_cookie)).unwrap_or(0);
    // SAFETY: nobody changes the map while the iterator runs.
    let Some(tag) = (unsafe { EARLIER.get(cookie) }).copied() else {
        return;
    };
    let Some(counters) = groups::counters(&tag) else {
        return;
    };
    // SAFETY: the iterator's own socket.
    let former = unsafe { tags::of(socket.cast_mut().cast()) };
    // It is counted where it belongs, unless that is gone: then it was steered once before.
    if former.is_some_and(|former| groups::counters(&former).is_some()) {
        return;
    }
    // SAFETY: as above.
    if unsafe { tags::set(socket.cast_mut().cast(), tag) } {
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        atomic::add(unsafe { &raw mut (*counters).connections }, 1);
    }
}
