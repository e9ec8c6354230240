//! The policies in the kernel, for the tests. They are no part of steer.
//!
//! A test can't run an SK_REUSEPORT program. `run` is a classifier, which a test can run. It
//! selects from the group that the test has written into a map.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use steer_common::{
    limits::{MAX_SLOTS, MAX_TURNS},
    policy::{Policy, Scan, Steps, least, sticky},
    view::{Handle, Loop, View, Worker},
};
use steer_views::{State, Written, WrittenMember, next_random, raw_selection, rest, shown};

#[btf_map]
static WRITTEN: Array<Written, 1> = Array::new();

#[btf_map]
static STATE: Array<State, 1> = Array::new();

/// No slot.
const NONE: u32 = u32::MAX;

/// Selects once, and writes down how the selection ended.
#[classifier]
fn run(_: TcContext) -> i32 {
    let Some(group) = Group::new() else {
        return 0;
    };
    let accept = |slot| group.member(slot).refused == 0;
    let selection = Policy::from_raw(group.written.policy).select(&group, accept);
    let selection = raw_selection(selection);
    // SAFETY: `state` points to a map value that only this program uses while the test waits for
    // it.
    unsafe { (*group.state).selection = selection };
    0
}

struct Group {
    written: &'static Written,
    state: *mut State,
}

impl Group {
    #[inline(always)]
    fn new() -> Option<Self> {
        Some(Self {
            written: WRITTEN.get(0)?,
            state: STATE.get_ptr_mut(0)?,
        })
    }

    #[inline(always)]
    fn member(&self, slot: u32) -> &'static WrittenMember {
        let index = masked::<{ MAX_SLOTS - 1 }>(slot);
        // SAFETY: `index` is less than the number of members, because it is masked.
        unsafe { self.written.members.get_unchecked(index) }
    }

    #[inline(always)]
    fn count_read(&self) {
        // SAFETY: `state` points to a map value that only this program uses while the test waits
        // for it.
        unsafe { (*self.state).reads += 1 };
    }
}

/// The lowest bits of a number. LLVM would leave out a mask if it can prove that the number is
/// small enough, by a proof that the verifier doesn't follow. LLVM doesn't look into assembly.
#[inline(always)]
fn masked<const MASK: u32>(number: u32) -> usize {
    let mut index = number as usize;
    // SAFETY: the assembly is one instruction that changes only the register of `index`.
    unsafe { core::arch::asm!("{0} &= {1}", inout(reg) index, const MASK) };
    index
}

impl View for Group {
    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        self.written.slot_mask
    }

    #[inline(always)]
    fn worker(&self, slot: u32) -> Option<Worker> {
        let member = self.member(slot);
        (member.eligible != 0).then(|| Worker {
            inverse_weight: member.inverse_weight,
            active: member.active,
            handle: Handle {
                slot,
                ..Handle::default()
            },
        })
    }

    #[inline(always)]
    fn handshakes(&self, worker: &Worker) -> u32 {
        self.count_read();
        self.member(worker.handle.slot).handshakes
    }

    #[inline(always)]
    fn event_loop(&self, worker: &Worker) -> Loop {
        self.count_read();
        self.member(worker.handle.slot).event_loop()
    }

    #[inline(always)]
    fn fresh(&self, worker: &Worker) -> u32 {
        self.member(worker.handle.slot).fresh
    }

    #[inline(always)]
    fn ready(&self, worker: &Worker, most: u32) -> u32 {
        self.count_read();
        self.member(worker.handle.slot).ready.min(most)
    }

    #[inline(always)]
    fn mean(&self) -> u64 {
        self.written.mean
    }

    #[inline(always)]
    fn rest(&self, age: u64) -> u64 {
        rest(self.written.mean, age)
    }

    #[inline(always)]
    fn ticket(&self) -> u64 {
        // SAFETY: `state` points to a map value that only this program uses while the test waits
        // for it.
        let cursor = unsafe { &mut (*self.state).cursor };
        let ticket = *cursor;
        *cursor = ticket.wrapping_add(1);
        ticket
    }

    #[inline(always)]
    fn turn(&self, ticket: u64) -> Option<u32> {
        let slot = turn_of(ticket);
        (slot != NONE).then_some(slot)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: `state` points to a map value that only this program uses while the test waits
        // for it.
        let random = unsafe { &mut (*self.state).random };
        *random = next_random(*random);
        shown(*random)
    }

    #[inline(always)]
    fn flow(&self) -> u32 {
        self.written.flow
    }

    #[inline(always)]
    fn client(&self) -> u32 {
        self.written.client
    }
}

impl Steps for Group {
    #[inline(always)]
    fn admits(&self, slot: u32) -> bool {
        admits(slot) != 0
    }

    fn least(&self) -> Option<u32> {
        least::choose(self)
    }

    fn rendezvous(&self, key: u32) -> Option<u32> {
        sticky::rendezvous(self, key)
    }

    #[inline(always)]
    fn least_cost(&self, slot: u32, bound: u64) -> u64 {
        least_cost(slot, bound)
    }

    #[inline(always)]
    fn sticky_score(&self, slot: u32, client: u32) -> u64 {
        sticky_score(slot, client)
    }

    #[inline(always)]
    fn least_part(&self, start: u32, first: u32, scan: Scan) -> Scan {
        Scan(least_part(start, first, scan.0))
    }

    #[inline(always)]
    fn rendezvous_part(&self, first: u32, key: u32, best: u64) -> u64 {
        rendezvous_part(first, key, best)
    }
}

// As in steer's `once`, these are functions with global linkage. The verifier looks at each of
// them once, with any arguments.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least_part(start: u32, first: u32, scan: u64) -> u64 {
    Group::new().map_or(scan, |group| {
        least::part(&group, start, first, Scan(scan)).0
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rendezvous_part(first: u32, key: u32, best: u64) -> u64 {
    Group::new().map_or(best, |group| sticky::part(&group, first, key, best))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least_cost(slot: u32, bound: u64) -> u64 {
    Group::new().map_or(least::OUTBID, |group| least::cost(&group, slot, bound))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sticky_score(slot: u32, client: u32) -> u64 {
    Group::new().map_or(sticky::NONE, |group| sticky::score(&group, slot, client))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn admits(slot: u32) -> u32 {
    Group::new().map_or(0, |group| u32::from(group.worker(slot).is_some()))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn turn_of(ticket: u64) -> u32 {
    let Some(group) = Group::new() else {
        return NONE;
    };
    let len = group.written.turns_len;
    if len == 0 {
        return NONE;
    }
    let index = masked::<{ MAX_TURNS - 1 }>((ticket % u64::from(len)) as u32);
    // SAFETY: `index` is less than the number of turns that there is room for, because it is
    // masked.
    unsafe { *group.written.turns.get_unchecked(index) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program that can reach this loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
