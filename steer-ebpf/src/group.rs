//! The group's configuration and counters, and the view of it that the policies get.

use aya_ebpf::{
    btf_maps::Array,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::btf_map,
    programs::SkReuseportContext,
};
use steer_common::{
    config::GroupConfig,
    counters::{GroupCounters, Hashed},
    policy::{least, p2c, sticky},
    view::{Arrival, Loop, View, Worker},
};

use crate::{
    atomic, client,
    kernel::{self, offset},
    slots,
    tier::{NONE, Tier},
    turns,
};

#[btf_map]
static CONFIG: Array<GroupConfig, 1> = Array::new();

#[btf_map]
static GROUP: Array<GroupCounters, 1> = Array::new();

/// The group as one selection sees it.
pub(crate) struct Group<'a> {
    pub(crate) config: &'static GroupConfig,
    pub(crate) counters: *mut GroupCounters,
    /// None where only the workers are looked at.
    ctx: Option<&'a SkReuseportContext>,
    arrival: Arrival,
    tier: Tier,
}

impl<'a> Group<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SkReuseportContext, arrival: Arrival) -> Option<Self> {
        let config = CONFIG.get(0)?;
        let counters = GROUP.get_ptr_mut(0)?;
        Some(Self {
            config,
            counters,
            ctx: Some(ctx),
            arrival,
            tier: Tier::of(config, counters),
        })
    }

    /// The group's workers of one tier.
    #[inline(always)]
    fn workers(tier: u32) -> Option<Self> {
        Some(Self {
            config: CONFIG.get(0)?,
            counters: GROUP.get_ptr_mut(0)?,
            ctx: None,
            arrival: Arrival::Syn,
            tier: Tier::from_raw(tier),
        })
    }

    /// Counts a packet that is left to the kernel's hash and returns how many were before it.
    #[inline(always)]
    pub(crate) fn count_hashed(&self, why: Hashed) -> u64 {
        // SAFETY: `counters` points to a map value; a field of it is taken by address only.
        let hashed = unsafe { &raw mut (*self.counters).hashed };
        let counter = hashed.cast::<u64>().wrapping_add(why as usize);
        atomic::fetch_add(counter, 1)
    }
}

impl View for Group<'_> {
    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        self.config.slot_mask
    }

    #[inline(always)]
    fn worker(&self, slot: u32) -> Option<Worker> {
        if !self.tier.admits(self.config, self.counters, slot) {
            return None;
        }
        slots::live(slot)
    }

    #[inline(always)]
    fn handshakes(&self, worker: &Worker) -> u32 {
        kernel::read(worker.handle.sock, offset!(request_queue_len)).unwrap_or(0)
    }

    #[inline(always)]
    fn event_loop(&self, worker: &Worker) -> Loop {
        let head = worker.handle.waiters;
        // An empty list's head points to itself.
        let Some(first) = kernel::read::<u64>(head, 0) else {
            return Loop::Unknown;
        };
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        let since = |time: u64| now.saturating_sub(time);
        // One without a connection waits, or is about to: the time of its next job begins here.
        if worker.active == 0 {
            slots::set_waited_at(worker.handle.slot, now);
            Loop::IDLE
        } else if first == head {
            Loop::Busy(since(slots::waited_at(worker.handle.slot)))
        } else {
            slots::set_waited_at(worker.handle.slot, now);
            Loop::Waiting(since(slots::born_at(worker.handle.slot)))
        }
    }

    #[inline(always)]
    fn ticket(&self) -> u64 {
        // SAFETY: `counters` points to a map value; a field of it is taken by address only.
        let cursors = unsafe { &raw mut (*self.counters).cursors };
        let cursor = cursors.cast::<u64>().wrapping_add(self.arrival as usize);
        atomic::fetch_add(cursor, 1)
    }

    #[inline(always)]
    fn turn(&self, ticket: u64) -> Option<u32> {
        let slot = turn_of(ticket, self.tier as u32);
        (slot != NONE).then_some(slot)
    }

    #[inline(always)]
    fn admits(&self, slot: u32) -> bool {
        admits(slot, self.tier as u32) != 0
    }

    #[inline(always)]
    fn p2c_load(&self, slot: u32) -> u64 {
        p2c_load(slot, self.tier as u32)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn flow(&self) -> u32 {
        self.ctx.map_or(0, SkReuseportContext::hash)
    }

    #[inline(always)]
    fn client(&self) -> u32 {
        self.ctx.map_or(0, |ctx| client::hash(ctx, self.config))
    }

    #[inline(always)]
    fn least_cost(&self, slot: u32, bound: u64, _: least::Costs) -> u64 {
        least_cost(slot, self.tier as u32, bound)
    }

    #[inline(always)]
    fn sticky_score(&self, slot: u32, client: u32) -> u64 {
        sticky_score(slot, self.tier as u32, client)
    }

    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number ^ u64::from(self.config.zero)
    }
}

// What the loops and branches of a selection call are functions of their own with global linkage:
// the verifier looks at each of them once, with any arguments, and not again on every path to it.

/// [`least::cost`] of a slot.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least_cost(slot: u32, tier: u32, bound: u64) -> u64 {
    Group::workers(tier).map_or(least::OUTBID, |group| {
        least::cost(&group, slot, bound, least::Costs::STEER)
    })
}

/// [`sticky::score`] of a slot.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sticky_score(slot: u32, tier: u32, client: u32) -> u64 {
    Group::workers(tier).map_or(sticky::NONE, |group| sticky::score(&group, slot, client))
}

/// [`p2c::load`] of a slot.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn p2c_load(slot: u32, tier: u32) -> u64 {
    Group::workers(tier).map_or(p2c::NONE, |group| p2c::load(&group, slot))
}

/// Whether the worker of a slot may be selected.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn admits(slot: u32, tier: u32) -> u32 {
    Group::workers(tier).map_or(0, |group| u32::from(group.worker(slot).is_some()))
}

/// The slot whose turn a ticket is, [`NONE`] where no worker is live.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn turn_of(ticket: u64, tier: u32) -> u32 {
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
