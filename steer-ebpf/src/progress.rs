//! Whether a worker accepts: looked at when it is chosen, so that it costs one read a selection.
//!
//! A worker whose accept queue is not empty and which has accepted nothing for a while is ejected:
//! not selected until it accepts again, by whatever policy. Never more than half of the group.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use steer_common::{
    config::GroupConfig,
    counters::{Counters, GroupCounters},
    eject::{self, Ejected},
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

/// Looks at the worker of a slot and writes down what it has accepted by now. It is stuck after so many
/// nanoseconds without having accepted; never where that is 0.
#[inline(always)]
pub(crate) fn look(slot: u32, eject_after: u64) -> Progress {
    match progress_of(slot, eject_after) {
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
/// Where that would be more than half of the group it may be, and so may from now on one that is out already.
#[inline(always)]
pub(crate) fn eject(config: &GroupConfig, group: *mut GroupCounters, slot: u32) -> bool {
    let is_out = eject::eject(&Set(group), &config.live, slot, random());
    if is_out && let Some(counters) = slots::counters(slot) {
        // SAFETY: a field of a map value is taken by address only.
        atomic::add(unsafe { &raw mut (*counters).ejected }, 1);
    }
    is_out
}

/// Looks at one of the ejected workers, where there are any, and takes it back if it accepts again.
#[inline(always)]
pub(crate) fn review(config: &GroupConfig, group: *mut GroupCounters) {
    // SAFETY: a pointer to a map value, valid as long as the program runs.
    let ejected = unsafe { &(*group).ejected };
    if (ejected[0] | ejected[1] | ejected[2] | ejected[3]) == 0 {
        return;
    }
    let set = Set(group);
    if let Some(slot) = eject::any(&set, random())
        && look(slot, config.eject_after) != Progress::Stuck
    {
        eject::take_back(&set, slot);
    }
}

fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The ejected slots of a group.
struct Set(*mut GroupCounters);

impl Set {
    #[inline(always)]
    fn word_at(&self, index: usize) -> *mut u64 {
        // SAFETY: a pointer to a map value, of which a field is taken by address only.
        unsafe { &raw mut (*self.0).ejected[index] }
    }
}

impl Ejected for Set {
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: within a map value, valid as long as the program runs; written by others meanwhile,
        // hence volatile.
        unsafe { self.word_at(index).read_volatile() }
    }

    #[inline(always)]
    fn add(&self, index: usize, bits: u64) -> u64 {
        atomic::fetch_or(self.word_at(index), bits)
    }

    #[inline(always)]
    fn remove(&self, index: usize, bits: u64) {
        atomic::and(self.word_at(index), !bits);
    }
}
