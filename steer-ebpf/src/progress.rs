//! Whether a worker accepts connections. The program looks at the worker when it is chosen, so the
//! look costs one read of kernel memory a selection.
//!
//! If a worker's accept queue is not empty and the worker has accepted nothing for a while, the
//! worker is ejected: whatever the policy, it isn't selected until it accepts again. Never more
//! than half of the group is ejected.

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

/// [`Counters::accepted`] of a worker that had nothing to accept when it was looked at last.
const NOTHING_WAITS: u64 = u64::MAX;

/// What a look at a worker finds.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Progress {
    /// The worker accepts, or has nothing to accept, or nothing tells.
    Fine = 0,
    /// The worker's accept queue is full.
    Full = 1,
    /// The worker has accepted nothing for too long.
    Stuck = 2,
}

/// Looks at the worker of a slot, and writes down what it has accepted by now. A worker for which
/// a connection waits is stuck if it has accepted nothing for more than `eject_after` nanoseconds.
/// If `eject_after` is 0, no worker is ever stuck.
#[inline(always)]
pub(crate) fn look(slot: u32, eject_after: u64) -> Progress {
    match progress_of(slot, eject_after) {
        0 => Progress::Fine,
        1 => Progress::Full,
        _ => Progress::Stuck,
    }
}

/// [`look`] as a function that the verifier looks at once, with the outcome as a number.
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
        // SAFETY: `accepted` is an aligned field of a value of the map `COUNTERS`, which is valid
        // as long as the program runs.
        unsafe { accepted.write_volatile(NOTHING_WAITS) };
        return Progress::Fine;
    }
    // SAFETY: `connections` is an aligned field of the same value. The tracker changes it
    // meanwhile, hence volatile.
    let now_accepted = unsafe { connections.read_volatile() }.wrapping_sub(u64::from(waiting));
    // SAFETY: `accepted` is an aligned field of the same value. Other processors change it
    // meanwhile, hence volatile.
    let was_accepted = unsafe { accepted.read_volatile() };
    // SAFETY: the helper has no arguments and can't fail.
    let now = unsafe { bpf_ktime_get_ns() };
    let progressed_at = if was_accepted == NOTHING_WAITS {
        // The newest connection waits, and has waited since it was born.
        // SAFETY: `born_at` is an aligned field of the same value. The tracker changes it
        // meanwhile, hence volatile.
        unsafe { born_at.read_volatile() }
    } else if now_accepted == was_accepted {
        // SAFETY: `progress_at` is an aligned field of the same value. Other processors change it
        // meanwhile, hence volatile.
        unsafe { progress_at.read_volatile() }
    } else {
        now
    };
    if now_accepted != was_accepted {
        // SAFETY: `accepted` is an aligned field of the same value. Of two processors that write
        // at once, either may win.
        unsafe { accepted.write_volatile(now_accepted) };
        // SAFETY: `progress_at` is an aligned field of the same value. Of two processors that
        // write at once, either may win.
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

/// Takes a stuck worker out of selection and returns whether it may not be selected now.
///
/// If more than half of the group would be ejected then, the worker may be selected. From now on a
/// worker that was ejected before may be selected, too: it comes back in exchange.
#[inline(always)]
pub(crate) fn eject(config: &GroupConfig, group: *mut GroupCounters, slot: u32) -> bool {
    let is_out = eject::eject(&Set(group), &config.live, slot, random());
    if is_out && let Some(counters) = slots::counters(slot) {
        // SAFETY: `counters` points to a value of the map `COUNTERS`, and only the address of a
        // field is taken.
        atomic::add(unsafe { &raw mut (*counters).ejected }, 1);
    }
    is_out
}

/// If any workers are ejected, looks at one of them, and takes it back if it isn't stuck any more.
#[inline(always)]
pub(crate) fn review(config: &GroupConfig, group: *mut GroupCounters) {
    // SAFETY: `group` points to a map value, which is valid as long as the program runs.
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
    // SAFETY: the helper has no arguments and can't fail.
    unsafe { bpf_get_prandom_u32() }
}

/// The ejected slots of a group.
struct Set(*mut GroupCounters);

impl Set {
    #[inline(always)]
    fn word_at(&self, index: usize) -> *mut u64 {
        // SAFETY: the pointer is to a value of the map `GROUP`, and only the address of a word of
        // the value is taken.
        unsafe { &raw mut (*self.0).ejected[index] }
    }
}

impl Ejected for Set {
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: the word is aligned, within a map value that is valid as long as the program
        // runs. Other processors change it meanwhile, hence volatile.
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
