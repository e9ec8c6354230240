//! The group's configuration and counters, and the view of it that the policies get.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use steer_common::{
    config::GroupConfig,
    counters::{GroupCounters, Hashed},
    view::{Arrival, View, Worker},
};

use crate::{
    atomic,
    kernel::{self, offset},
    slots, turns,
};

#[btf_map]
static CONFIG: Array<GroupConfig, 1> = Array::new();

#[btf_map]
static GROUP: Array<GroupCounters, 1> = Array::new();

/// The group as one selection sees it.
pub(crate) struct Group {
    pub(crate) config: &'static GroupConfig,
    counters: *mut GroupCounters,
    arrival: Arrival,
}

impl Group {
    #[inline(always)]
    pub(crate) fn new(arrival: Arrival) -> Option<Self> {
        Some(Self {
            config: CONFIG.get(0)?,
            counters: GROUP.get_ptr_mut(0)?,
            arrival,
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

impl View for Group {
    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        self.config.slot_mask
    }

    #[inline(always)]
    fn eligible(&self, slot: u32) -> Option<Worker> {
        slots::live(slot)
    }

    #[inline(always)]
    fn handshakes(&self, worker: &Worker) -> u32 {
        kernel::read(worker.handle, offset!(request_queue_len)).unwrap_or(0)
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
        let len = self.config.turns_len;
        if len == 0 {
            return None;
        }
        turns::turn(self.config.turns_start + (ticket % u64::from(len)) as u32)
    }

    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number ^ u64::from(self.config.zero)
    }
}
