//! One selection: everything around the policies is handled here, once for all of them.

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
    /// On the listener of this slot.
    Slot(u32),
    /// With the kernel's own hash.
    Hash(Hashed),
}

#[inline(always)]
pub(crate) fn run(ctx: &SkReuseportContext) {
    let migrating = ctx.migrating_sk();
    let packet = match migrating {
        // There is none, or not one that the choice is about.
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
            // Rare by construction: the first one of its kind, the second, the fourth, ...
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

/// What [`chosen`] returns beyond the last slot: a reason to leave the packet to the hash.
const HASHED: u32 = MAX_SLOTS;

#[inline(always)]
fn choose(ctx: &SkReuseportContext, arrival: Arrival) -> Outcome {
    // SAFETY: the program's own context.
    let chosen = unsafe { chosen(ctx.as_ptr().cast(), arrival as u32) };
    if chosen < HASHED {
        Outcome::Slot(chosen)
    } else {
        Outcome::Hash(Hashed::from_raw(chosen - HASHED))
    }
}

/// The slot that was chosen and selected. A function that the verifier looks at once.
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
    // SAFETY: the program's own context.
    let accept = |slot| unsafe { accepted(md, slot, group.config.eject_after) } != 0;
    match Policy::from_raw(group.config.policy).select(&group, accept) {
        Selection::Slot(slot) => slot,
        Selection::NoWorker => HASHED + Hashed::NoWorker as u32,
        Selection::Refused => HASHED + Hashed::Refused as u32,
    }
}

/// Selects the listener of a slot, where its worker accepts and the kernel takes it. A function that the
/// verifier looks at once.
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
        // Where half of the group is ejected already, a stuck worker is as good as any.
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
        // SAFETY: a pointer into a map, of which a field is taken by address only.
        Arrival::Syn => unsafe { &raw mut (*counters).selected },
        // SAFETY: as above.
        Arrival::Ack => unsafe { &raw mut (*counters).cookie_acks },
        // SAFETY: as above.
        Arrival::Migration => unsafe { &raw mut (*counters).migrated },
    };
    let before = atomic::fetch_add(counter, 1);
    if before.is_multiple_of(handed_over::LOOK_EVERY) && before != 0 {
        once::look_at_listener(slot);
    }
}
