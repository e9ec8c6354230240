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
    policy::{Scan, Steps},
    view::{Arrival, Loop, View, Worker, YOUNG},
};

use crate::{
    atomic, client, jobs,
    kernel::{self, offset},
    learned, once, ready, slots,
    tier::Tier,
    void,
};

#[btf_map]
static CONFIG: Array<GroupConfig, 1> = Array::new();

#[btf_map]
static GROUP: Array<GroupCounters, 1> = Array::new();

/// The group as one selection sees it.
pub(crate) struct Group<'a> {
    pub(crate) config: &'static GroupConfig,
    pub(crate) counters: *mut GroupCounters,
    /// The context of the selection. None if only the workers are looked at.
    ctx: Option<&'a SkReuseportContext>,
    arrival: Arrival,
    pub(crate) tier: Tier,
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

    /// The group with its workers of one tier, without a context.
    #[inline(always)]
    pub(crate) fn workers(tier: u32) -> Option<Self> {
        Self::workers_for(tier, Arrival::Syn)
    }

    /// [`Group::workers`] for a caller that takes a ticket: `arrival` says of which cursor.
    #[inline(always)]
    pub(crate) fn workers_for(tier: u32, arrival: Arrival) -> Option<Self> {
        Some(Self {
            config: CONFIG.get(0)?,
            counters: GROUP.get_ptr_mut(0)?,
            ctx: None,
            arrival,
            tier: Tier::from_raw(tier),
        })
    }

    /// Counts a packet that is left to the kernel's hash, and returns how many were counted before
    /// it for the same reason.
    #[inline(always)]
    pub(crate) fn count_hashed(&self, why: Hashed) -> u64 {
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
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
        if self.config.loops_known == 0 {
            return Loop::Unknown;
        }
        // A worker without a connection waits, or is about to wait.
        if worker.active == 0 {
            slots::forget_silent(worker.handle.slot);
            return Loop::Waiting;
        }
        let head = worker.handle.waiters;
        // The head of an empty list points to itself.
        let Some(first) = kernel::read::<u64>(head, 0) else {
            return Loop::Unknown;
        };
        // SAFETY: the helper has no arguments and can't fail.
        let now = unsafe { bpf_ktime_get_ns() };
        let slot = worker.handle.slot;
        if first != head {
            slots::set_waited_at(slot, now);
            slots::note_silent(slot, now);
            return Loop::Waiting;
        }
        let began = slots::began_at(slot);
        let job = slots::job(slot);
        let answered = jobs::answered_at(job).unwrap_or(0);
        let since = began.max(slots::waited_at(slot)).max(answered);
        if job != jobs::NONE && since == began {
            return Loop::Busy(now.saturating_sub(began));
        }
        // The loop may have been woken by the worker's newest connection.
        let age = now.saturating_sub(since.max(slots::born_at(slot)));
        if age < YOUNG {
            Loop::Between
        } else {
            Loop::Busy(age)
        }
    }

    #[inline(always)]
    fn fresh(&self, worker: &Worker) -> u32 {
        match worker.active {
            0 => 0,
            _ => slots::fresh(worker.handle.slot),
        }
    }

    #[inline(always)]
    fn ready(&self, worker: &Worker, most: u32) -> u32 {
        ready::ready(worker.handle.waiters, self.config.key.port, most)
    }

    #[inline(always)]
    fn mean(&self) -> u64 {
        learned::mean()
    }

    #[inline(always)]
    fn rest(&self, age: u64) -> u64 {
        learned::rest(age)
    }

    #[inline(always)]
    fn ticket(&self) -> u64 {
        // SAFETY: `counters` points to a map value, and only the address of a field is taken.
        let cursors = unsafe { &raw mut (*self.counters).cursors };
        let cursor = cursors.cast::<u64>().wrapping_add(self.arrival as usize);
        atomic::fetch_add(cursor, 1)
    }

    #[inline(always)]
    fn turn(&self, ticket: u64) -> Option<u32> {
        once::some(once::turn_of(ticket, self.tier as u32))
    }

    #[inline(always)]
    fn shift(&self) -> u64 {
        void::shift(self.counters)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no arguments and can't fail.
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
}

impl Steps for Group<'_> {
    #[inline(always)]
    fn admits(&self, slot: u32) -> bool {
        once::admits(slot, self.tier as u32) != 0
    }

    #[inline(always)]
    fn least(&self) -> Option<u32> {
        once::some(once::least_slot(self.tier as u32, self.arrival as u32))
    }

    #[inline(always)]
    fn rendezvous(&self, key: u32) -> Option<u32> {
        once::some(once::rendezvous_slot(self.tier as u32, key))
    }

    #[inline(always)]
    fn least_part(&self, start: u32, first: u32, scan: Scan) -> Scan {
        Scan(once::least_part(start, first, self.tier as u32, scan.0))
    }

    #[inline(always)]
    fn rendezvous_part(&self, first: u32, key: u32, best: u64) -> u64 {
        once::rendezvous_part(first, self.tier as u32, key, best)
    }

    #[inline(always)]
    fn least_cost(&self, slot: u32, bound: u64) -> u64 {
        once::least_cost(slot, self.tier as u32, bound)
    }

    #[inline(always)]
    fn sticky_score(&self, slot: u32, client: u32) -> u64 {
        once::sticky_score(slot, self.tier as u32, client)
    }
}
