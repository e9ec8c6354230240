//! Whether a worker accepts: looked at when it is chosen, so that it costs one read a selection.
//!
//! A worker whose accept queue is not empty and which has accepted nothing for a while is ejected:
//! not selected until it accepts again, by whatever policy. Never more than half of the group.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use steer_common::{
    config::{GroupConfig, insert},
    counters::{Counters, GroupCounters},
};

use crate::{
    atomic,
    kernel::{self, offset},
    slots,
};

/// [`Counters::accepted`] of a worker that was last seen with nothing to accept.
const NOTHING_WAITS: u64 = u64::MAX;

/// What a look at a worker finds.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Progress {
    /// It accepts, or has nothing to accept, or nothing tells.
    Fine = 0,
    /// Its accept queue is full.
    Full = 1,
    /// It has accepted nothing for too long.
    Stuck = 2,
}

/// Looks at the worker of a slot and writes down what it has accepted by now.
#[inline(always)]
pub(crate) fn look(config: &GroupConfig, slot: u32) -> Progress {
    match progress_of(slot, config.eject_after) {
        0 => Progress::Fine,
        1 => Progress::Full,
        _ => Progress::Stuck,
    }
}

/// [`look`] as a function that the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn progress_of(slot: u32, eject_after: u64) -> u32 {
    measure(slot, eject_after) as u32
}

#[inline(always)]
fn measure(slot: u32, eject_after: u64) -> Progress {
    let (Some(entry), Some(counters)) = (slots::slot(slot), slots::counters(slot)) else {
        return Progress::Fine;
    };
    // The limit follows the length in `struct sock`; both are 32 bits wide.
    let Some([waiting, limit]) = kernel::read::<[u32; 2]>(entry.sock, offset!(sk_ack_backlog))
    else {
        return Progress::Fine;
    };
    let field = |offset: usize| counters.wrapping_byte_add(offset).cast::<u64>();
    let accepted = field(core::mem::offset_of!(Counters, accepted));
    let progress_at = field(core::mem::offset_of!(Counters, progress_at));
    let connections = field(core::mem::offset_of!(Counters, connections));
    let born_at = field(core::mem::offset_of!(Counters, born_at));
    if waiting == 0 {
        // SAFETY: a field of a map value, valid as long as the program runs.
        unsafe { accepted.write_volatile(NOTHING_WAITS) };
        return Progress::Fine;
    }
    // SAFETY: as above.
    let now_accepted = unsafe { connections.read_volatile() }.wrapping_sub(u64::from(waiting));
    // SAFETY: as above.
    let was_accepted = unsafe { accepted.read_volatile() };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let progressed_at = if was_accepted == NOTHING_WAITS {
        // The newest one waits, and has done so since it was born.
        // SAFETY: as above.
        unsafe { born_at.read_volatile() }
    } else if now_accepted == was_accepted {
        // SAFETY: as above.
        unsafe { progress_at.read_volatile() }
    } else {
        now
    };
    if now_accepted != was_accepted {
        // SAFETY: as above.
        unsafe { accepted.write_volatile(now_accepted) };
        // SAFETY: as above.
        unsafe { progress_at.write_volatile(progressed_at) };
    }
    if eject_after != 0 && now.saturating_sub(progressed_at) > eject_after {
        return Progress::Stuck;
    }
    if waiting > limit {
        Progress::Full
    } else {
        Progress::Fine
    }
}

/// Takes a stuck worker out of selection and returns whether it may not be selected.
///
/// Where that would be more than half of the group, one that is out already comes back in its place,
/// and this one may be selected: so with all of them stuck each is used now and then.
#[inline(always)]
pub(crate) fn eject(config: &GroupConfig, group: *mut GroupCounters, slot: u32) -> bool {
    let mut out = 0;
    let mut live = 0;
    for word in 0..config.live.len() {
        let ejected = ejected(group, word);
        out += (config.live[word] & ejected).count_ones();
        live += config.live[word].count_ones();
    }
    let room = 2 * (out + 1) <= live;
    if !room {
        let Some((word, bit)) = any_ejected(group) else {
            return false;
        };
        take_back(group, word, bit);
    }
    let mut bit = [0; 4];
    insert(&mut bit, slot);
    for (word, bits) in bit.into_iter().enumerate() {
        // SAFETY: a field of a map value is taken by address only.
        atomic::or(unsafe { &raw mut (*group).ejected[word] }, bits);
    }
    if room && let Some(counters) = slots::counters(slot) {
        // SAFETY: as above.
        atomic::add(unsafe { &raw mut (*counters).ejected }, 1);
    }
    room
}

/// Looks at one of the ejected workers, where there are any, and takes it back if it accepts again.
#[inline(always)]
pub(crate) fn review(config: &GroupConfig, group: *mut GroupCounters) {
    // SAFETY: a pointer to a map value, valid as long as the program runs.
    let ejected = unsafe { &(*group).ejected };
    if (ejected[0] | ejected[1] | ejected[2] | ejected[3]) == 0 {
        return;
    }
    if let Some((word, bit)) = any_ejected(group)
        && look(config, 64 * word as u32 + bit) != Progress::Stuck
    {
        take_back(group, word, bit);
    }
}

/// Any of the ejected workers, by the word of the set and the bit in it.
#[inline(always)]
fn any_ejected(group: *const GroupCounters) -> Option<(usize, u32)> {
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let start = random as usize;
    for step in 0..4 {
        let word = (start + step) % 4;
        let bits = ejected(group, word);
        if bits != 0 {
            let turn = (random >> 8) % 64;
            return Some((word, (bits.rotate_right(turn).trailing_zeros() + turn) % 64));
        }
    }
    None
}

/// A word of the set of ejected slots.
#[inline(always)]
fn ejected(group: *const GroupCounters, word: usize) -> u64 {
    // SAFETY: a pointer to a map value, of which a field is taken by address only.
    let word = unsafe { &raw const (*group).ejected[word] };
    // SAFETY: within that value, valid as long as the program runs.
    unsafe { word.read_volatile() }
}

#[inline(always)]
fn take_back(group: *mut GroupCounters, word: usize, bit: u32) {
    // SAFETY: a field of a map value is taken by address only.
    atomic::and(unsafe { &raw mut (*group).ejected[word] }, !(1 << bit));
}
