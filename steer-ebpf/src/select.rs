//! One selection. Everything around the policies is handled here, once for all policies.

use aya_ebpf::{EbpfContext as _, bindings::sk_reuseport_md, programs::SkReuseportContext};
use aya_log_ebpf::debug;
use steer_common::{
    counters::{Counters, Hashed},
    limits::MAX_SLOTS,
    policy::{Policy, Selection},
    view::Arrival,
};

use crate::{
    atomic,
    group::Group,
    handed_over, known, migration, once,
    progress::{self, Progress},
    repeat, slots, sockets,
    tcp::{self, Segment},
    tier::NONE,
    void,
};

/// How a packet's search for a listener ends.
enum Outcome {
    /// The listener of this slot was selected.
    Slot(u32),
    /// The kernel's own hash chooses, for this reason.
    Hash(Hashed),
}

#[inline(always)]
pub(crate) fn run(ctx: &SkReuseportContext) {
    let migrating = ctx.migrating_sk();
    let packet = match migrating {
        // If a handshake or connection migrates, there is no packet, or the packet isn't what the
        // choice is about.
        Some(_) => None,
        None => Some(tcp::look(ctx)),
    };
    let arrival = match packet {
        None => Arrival::Migration,
        Some(Err(_)) => Arrival::Syn,
        Some(Ok(packet)) => match packet.segment {
            Segment::Selects(arrival) => arrival,
            Segment::Stray => return,
        },
    };
    let Some(group) = Group::new(ctx, arrival) else {
        return;
    };
    if let Some(Ok(packet)) = &packet
        && let Some(slot) = repeat::recall(ctx, packet, group.counters)
        && (slot == NONE || sockets::select(ctx, slot))
    {
        return;
    }
    let outcome = match packet {
        Some(Err(why)) => Outcome::Hash(why),
        _ => choose(ctx, arrival),
    };
    if let Some(Ok(packet)) = &packet {
        let slot = match outcome {
            Outcome::Slot(slot) => Some(slot),
            Outcome::Hash(_) => None,
        };
        repeat::remember(ctx, packet, group.counters, slot);
    }
    match outcome {
        Outcome::Slot(slot) => {
            if group.config.policy == Policy::Least as u32 {
                void::look(group.counters, slot);
            }
            count_selected(slot, arrival);
            if let Some(migrating) = migrating {
                migration::count(ctx, &migrating, &group, slot);
            }
        }
        Outcome::Hash(why) if arrival as u32 == Arrival::Syn as u32 => {
            let before = group.count_hashed(why);
            // This is logged rarely: for the first packet that is left to the hash for this
            // reason, the second, the fourth, the eighth and so on.
            if before & (before + 1) == 0 {
                debug!(
                    ctx,
                    "left to the kernel's hash: {}, {} times before",
                    why.name(),
                    before
                );
            }
        }
        Outcome::Hash(_) => {}
    }
}

/// [`chosen`] returns a slot, or this number plus a [`Hashed`]: the reason why the packet is left
/// to the kernel's hash.
const HASHED: u32 = MAX_SLOTS;

#[inline(always)]
fn choose(ctx: &SkReuseportContext, arrival: Arrival) -> Outcome {
    // SAFETY: `ctx` wraps the context that the kernel called the program with.
    let chosen = unsafe { chosen(ctx.as_ptr().cast(), arrival as u32) };
    if chosen < HASHED {
        Outcome::Slot(chosen)
    } else {
        Outcome::Hash(Hashed::from_raw(chosen - HASHED))
    }
}

/// Chooses a slot and selects its listener. Returns the slot, or [`HASHED`] plus the reason why
/// the hash should choose. The verifier looks at this function once.
///
/// # Safety
///
/// `md` is the context that the program was called with.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn chosen(md: *mut sk_reuseport_md, arrival: u32) -> u32 {
    let ctx = SkReuseportContext::new(md);
    let Some(group) = Group::new(&ctx, Arrival::from_raw(arrival)) else {
        return HASHED + Hashed::NoWorker as u32;
    };
    if let Err(why) = known::may_select(&ctx, group.config, group.counters) {
        return HASHED + why as u32;
    }
    progress::review(group.config, group.counters);
    // SAFETY: `md` is the program's own context, by this function's contract.
    let accept = |slot| unsafe { accepted(md, slot, group.config.eject_after) } != 0;
    match Policy::from_raw(group.config.policy).select(&group, accept) {
        Selection::Slot(slot) => slot,
        Selection::NoWorker => HASHED + Hashed::NoWorker as u32,
        Selection::Refused => HASHED + Hashed::Refused as u32,
    }
}

/// Selects the listener of a slot and returns 1 if the worker accepts connections and the kernel
/// takes the listener, else returns 0. The verifier looks at this function once.
///
/// # Safety
///
/// `md` is the context that the program was called with.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn accepted(md: *mut sk_reuseport_md, slot: u32, eject_after: u64) -> u32 {
    let ctx = SkReuseportContext::new(md);
    let missed = match progress::look(slot, eject_after) {
        Progress::Fine if sockets::select(&ctx, slot) => return 1,
        Progress::Fine => core::mem::offset_of!(Counters, refused),
        Progress::Full => core::mem::offset_of!(Counters, full),
        // If half of the group is ejected already, this worker isn't ejected: it is as good as
        // any.
        Progress::Stuck => {
            return u32::from(once::eject_slot(slot) == 0 && sockets::select(&ctx, slot));
        }
    };
    if let Some(counters) = slots::counters(slot) {
        atomic::add(counters.wrapping_byte_add(missed).cast(), 1);
    }
    0
}

#[inline(always)]
fn count_selected(slot: u32, arrival: Arrival) {
    let Some(counters) = slots::counters(slot) else {
        return;
    };
    let counter = match arrival {
        // SAFETY: `counters` points to a value of the map `COUNTERS`, and only the address of a
        // field is taken.
        Arrival::Syn => unsafe { &raw mut (*counters).selected },
        // SAFETY: as for `selected`, the address of another field of the same value.
        Arrival::Ack => unsafe { &raw mut (*counters).cookie_acks },
        // SAFETY: as for `selected`, the address of another field of the same value.
        Arrival::Migration => unsafe { &raw mut (*counters).migrated },
    };
    let before = atomic::fetch_add(counter, 1);
    if before.is_multiple_of(handed_over::LOOK_EVERY) && before != 0 {
        once::look_at_listener(slot);
    }
}
