//! Segments for which a listener is looked up more than once.
//!
//! If nftables looks a listener up before TCP does, each segment is looked up twice or more often,
//! within moments and on one processor. The first look-up selects and counts. The look-ups that
//! follow get the slot of the first.

use aya_ebpf::{
    btf_maps::PerCpuArray, helpers::generated::bpf_ktime_get_ns, macros::btf_map,
    programs::SkReuseportContext,
};
use steer_common::counters::GroupCounters;

use crate::{atomic, tcp::Packet, tier::NONE};

/// How many selections one processor remembers: packets may come in batches, and nftables goes
/// through a whole batch before TCP does.
const REMEMBERED: usize = 32;

/// How long a selection is remembered, in nanoseconds: less than a client takes to send the same
/// segment again.
const FOR: u64 = 50_000_000;

/// A selection that was made for a segment, and the time until which it is remembered.
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

/// The slot that was selected for the same segment a moment ago, or [`NONE`] if the segment was
/// left to the kernel's hash. Nothing if the segment is new.
#[inline(always)]
pub(crate) fn recall(
    ctx: &SkReuseportContext,
    packet: &Packet,
    group: *const GroupCounters,
) -> Option<u32> {
    // SAFETY: `group` points to a map value, and only the address of a field is taken.
    let early = unsafe { &raw const (*group).early };
    // SAFETY: `early` is an aligned field of a map value, which is valid as long as the program
    // runs. Other processors change it meanwhile, hence volatile.
    if unsafe { early.read_volatile() } == 0 {
        return None;
    }
    let [ports, sequence] = packet.names;
    let slot = remembered(ctx.hash(), ports, sequence);
    (slot != NOTHING).then_some((slot & u64::from(NONE)) as u32)
}

/// If the listener was looked up before TCP has the segment, remembers what was selected: TCP will
/// look the listener up, too.
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
    // SAFETY: `group` points to a map value, and only the address of a field is taken.
    atomic::add(unsafe { &raw mut (*group).early }, 1);
    let Some(memory) = MEMORY.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this is the processor's own element of the map. If an interrupt's program writes
    // there meanwhile, one more segment is taken for new.
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

/// [`remembered`] returns this for a new segment.
const NOTHING: u64 = u64::MAX;

/// The slot that is remembered for a segment, or [`NOTHING`]. The verifier looks at this function
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remembered(hash: u32, ports: u32, sequence: u32) -> u64 {
    let Some(memory) = MEMORY.get_ptr(0) else {
        return NOTHING;
    };
    // SAFETY: this is the processor's own element of the map. If an interrupt's program writes
    // there meanwhile, one more segment is taken for new.
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
    // SAFETY: the helper has no arguments and can't fail.
    unsafe { bpf_ktime_get_ns() }
}
