//! Segments for which a listener is looked up more than once.
//!
//! Where nftables looks a listener up before TCP does, each segment wants one twice or more often, within
//! moments and on one processor. The first look-up selects and counts; those that follow get its slot.

use aya_ebpf::{
    btf_maps::PerCpuArray, helpers::generated::bpf_ktime_get_ns, macros::btf_map,
    programs::SkReuseportContext,
};
use steer_common::counters::GroupCounters;

use crate::{atomic, tcp::Packet, tier::NONE};

/// How many are remembered: packets may come in batches, which nftables goes through before TCP does.
const REMEMBERED: usize = 32;

/// How long, in nanoseconds: less than it takes a client to send it again.
const FOR: u64 = 50_000_000;

/// A selection.
#[repr(C)]
struct Entry {
    hash: u32,
    ports: u32,
    sequence: u32,
    slot: u32,
    until: u64,
}

/// The last selections of one processor.
#[repr(C)]
struct Memory {
    next: u64,
    entries: [Entry; REMEMBERED],
}

#[btf_map]
static MEMORY: PerCpuArray<Memory, 1> = PerCpuArray::new();

/// The slot that was selected for the same segment a moment ago; [`NONE`] where it was left to the
/// kernel's hash. Nothing where it is a new one.
#[inline(always)]
pub(crate) fn recall(
    ctx: &SkReuseportContext,
    packet: &Packet,
    group: *const GroupCounters,
) -> Option<u32> {
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    let early = unsafe { &raw const (*group).early };
    // SAFETY: within a map value, valid as long as the program runs; written by others meanwhile, hence
    // volatile.
    if unsafe { early.read_volatile() } == 0 {
        return None;
    }
    let [ports, sequence] = packet.names;
    let slot = remembered(ctx.hash(), ports, sequence);
    (slot != NOTHING).then_some((slot & u64::from(NONE)) as u32)
}

/// Remembers what was selected for a segment that TCP will want a listener for, too.
#[inline(always)]
pub(crate) fn remember(
    ctx: &SkReuseportContext,
    packet: &Packet,
    group: *mut GroupCounters,
    slot: Option<u32>,
) {
    if !packet.early {
        return;
    }
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    atomic::add(unsafe { &raw mut (*group).early }, 1);
    let Some(memory) = MEMORY.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this processor's own element of the map. An interrupt that writes there meanwhile makes it one
    // more segment that is new.
    let memory = unsafe { &mut *memory };
    let index = memory.next as usize % REMEMBERED;
    memory.next += 1;
    let [ports, sequence] = packet.names;
    if let Some(entry) = memory.entries.get_mut(index) {
        *entry = Entry {
            hash: ctx.hash(),
            ports,
            sequence,
            slot: slot.unwrap_or(NONE),
            until: now() + FOR,
        };
    }
}

/// What [`remembered`] returns of a new segment.
const NOTHING: u64 = u64::MAX;

/// The slot of a segment. A function that the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remembered(hash: u32, ports: u32, sequence: u32) -> u64 {
    let Some(memory) = MEMORY.get_ptr(0) else {
        return NOTHING;
    };
    // SAFETY: as in `remember`.
    let memory = unsafe { &*memory };
    for entry in &memory.entries {
        if entry.sequence == sequence
            && entry.ports == ports
            && entry.hash == hash
            && entry.until > now()
        {
            return entry.slot.into();
        }
    }
    NOTHING
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
