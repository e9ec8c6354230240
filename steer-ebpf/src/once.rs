//! What the loops and branches of a selection call.
//!
//! These are functions with global linkage. The verifier looks at such a function once, with any
//! arguments, and not again on every path that leads to it.

use steer_common::{
    policy::{Scan, least, sticky},
    view::{Arrival, View as _},
};

use crate::{
    group::Group,
    handed_over, progress,
    tier::{NONE, Tier},
    turns,
};

/// The slot that such a function returns. None if it returned [`NONE`].
#[inline(always)]
pub(crate) fn some(slot: u32) -> Option<u32> {
    (slot != NONE).then_some(slot)
}

/// [`least::choose`], or [`NONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn least_slot(tier: u32, arrival: u32) -> u32 {
    Group::workers_for(tier, Arrival::from_raw(arrival))
        .and_then(|group| least::choose(&group))
        .unwrap_or(NONE)
}

/// [`sticky::rendezvous`], or [`NONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn rendezvous_slot(tier: u32, key: u32) -> u32 {
    Group::workers(tier)
        .and_then(|group| sticky::rendezvous(&group, key))
        .unwrap_or(NONE)
}

/// [`least::part`] of a scan, as numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn least_part(start: u32, first: u32, tier: u32, scan: u64) -> u64 {
    Group::workers(tier).map_or(scan, |group| {
        least::part(&group, start, first, Scan(scan)).0
    })
}

/// [`sticky::part`] of a scan.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn rendezvous_part(first: u32, tier: u32, key: u32, best: u64) -> u64 {
    Group::workers(tier).map_or(best, |group| sticky::part(&group, first, key, best))
}

/// [`least::cost`] of a slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn least_cost(slot: u32, tier: u32, bound: u64) -> u64 {
    Group::workers(tier).map_or(least::OUTBID, |group| least::cost(&group, slot, bound))
}

/// [`sticky::score`] of a slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sticky_score(slot: u32, tier: u32, client: u32) -> u64 {
    Group::workers(tier).map_or(sticky::NONE, |group| sticky::score(&group, slot, client))
}

/// Whether the worker of a slot may be selected: 1 if so, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn admits(slot: u32, tier: u32) -> u32 {
    Group::workers(tier).map_or(0, |group| u32::from(group.worker(slot).is_some()))
}

/// [`progress::eject`] of a slot: 1 if the slot may not be selected now, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn eject_slot(slot: u32) -> u32 {
    Group::workers(Tier::Live as u32).map_or(0, |group| {
        u32::from(progress::eject(group.config, group.counters, slot))
    })
}

/// [`handed_over::look`] at a slot's listener.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn look_at_listener(slot: u32) -> u32 {
    handed_over::look(slot);
    0
}

/// The slot whose turn a ticket is. [`NONE`] if no worker is live.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn turn_of(ticket: u64, tier: u32) -> u32 {
    let Some(group) = Group::workers(tier) else {
        return NONE;
    };
    if !group.tier.has_turns(group.counters) {
        return group.tier.nth(group.config, group.counters, ticket);
    }
    let len = group.config.turns_len;
    if len == 0 {
        return NONE;
    }
    let index = group.config.turns_start + (ticket % u64::from(len)) as u32;
    turns::turn(index).unwrap_or(NONE)
}
