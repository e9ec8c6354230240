//! Members of the group that steer doesn't have keep the share that the hash would give them.
//!
//! The kernel asks the program first, and asks the hash only if the program selects nothing. So a
//! member that isn't in the socket map would get nothing. While there may be such members, the
//! program works out which member the hash would choose. If that member isn't known, the program
//! leaves the packet to the hash.
//!
//! The tracker counts whether there may be such members. But the tracker ends with its pins, and
//! an attached program doesn't. So now and then the program looks at the hash's choice, whatever
//! the tracker says.

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
    programs::SkReuseportContext,
};
use steer_common::{
    config::{EXCLUDED, GroupConfig},
    counters::{GroupCounters, Hashed},
    limits::MAX_KNOWN,
};

use crate::{
    attachments,
    kernel::{self, offset},
    slots,
};

#[btf_map]
static KNOWN: HashMap<u64, u32, { MAX_KNOWN as usize }> = HashMap::new();

/// The verifier lets no program compute with a socket pointer. A pointer that was written to
/// memory and read again is a number.
#[btf_map]
static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();

/// If all members are said to be known, the hash's choice is looked at for one of this many
/// packets.
const LOOK_EVERY: u32 = 32;

/// If a packet is found to be an unknown member's though all members were said to be known, the
/// hash's choice is looked at for this many packets after it.
const DOUBTS: u64 = 4096;

/// Whether steer may select for this packet, or why the hash should.
#[inline(always)]
pub(crate) fn may_select(
    ctx: &SkReuseportContext,
    config: &GroupConfig,
    counters: *mut GroupCounters,
) -> Result<(), Hashed> {
    // SAFETY: `counters` points to a map value, and only the address of a field is taken.
    let doubts = unsafe { &raw mut (*counters).doubts };
    // SAFETY: `doubts` is an aligned field of a map value, which is valid as long as the program
    // runs. If other processors write it meanwhile, some packets more or less are looked at.
    let doubted = unsafe { doubts.read_volatile() };
    let all_known = attachments::joins().is_some_and(|joins| joins == config.joins_seen);
    // The kernel's hash chooses by the upper bits of this number, and this test goes by the lower
    // ones.
    if all_known && doubted == 0 && !ctx.hash().is_multiple_of(LOOK_EVERY) {
        return Ok(());
    }
    let (left, outcome) = match hash_choice(ctx, all_known) {
        Some(cookie) if is_known(cookie) => (doubted.saturating_sub(1), Ok(())),
        Some(_) if all_known => (DOUBTS, Err(Hashed::UnknownWorker)),
        Some(_) => (doubted, Err(Hashed::UnknownWorker)),
        None if all_known => (doubted, Ok(())),
        None => (doubted, Err(Hashed::Unreadable)),
    };
    if left != doubted {
        // SAFETY: as for the read of `doubts`. Of two processors that write at once, either may
        // win.
        unsafe { doubts.write_volatile(left) };
    }
    outcome
}

/// Whether steer has this member, or knows that the member is to get nothing.
///
/// If the member's slot says that the listener has closed, the listener was shut down and listens
/// again, and nobody has given it a new slot yet. Such a member isn't known.
#[inline(always)]
fn is_known(cookie: u64) -> bool {
    slot(cookie).is_some_and(|slot| slot == EXCLUDED || slots::live(slot).is_some())
}

/// The slot of a listener, whether it still listens or has just closed.
#[inline(always)]
pub(crate) fn slot(cookie: u64) -> Option<u32> {
    // SAFETY: the value is an integer that never changes while the key is there.
    unsafe { KNOWN.get(cookie) }.copied()
}

/// The socket cookie of the member that the kernel's hash would choose. The arithmetic is that of
/// `reuseport_select_sock_by_hash` in net/core/sock_reuseport.c. None if it can't be told.
///
/// From Linux 6.2 on the kernel prefers the next member whose SO_INCOMING_CPU is this processor.
/// To find that member takes a look at each member, in a loop that no verifier of 6.1 follows. So
/// if a group has such members and there may be unknown ones, this function returns none, and the
/// hash places all connections of the group meanwhile.
#[inline(always)]
fn hash_choice(ctx: &SkReuseportContext, all_known: bool) -> Option<u64> {
    let reuse: u64 = kernel::read(socket_address(ctx)?, offset!(sk_reuseport_cb))?;
    let preferring = kernel::read::<u16>(reuse, offset!(reuse_incoming_cpu)).unwrap_or(0);
    if preferring != 0 && !all_known {
        return None;
    }
    let members: u16 = kernel::read(reuse, offset!(reuse_num_socks))?;
    let index = (u64::from(ctx.hash()) * u64::from(members)) >> 32;
    let member: u64 = kernel::read(reuse + 8 * index, offset!(reuse_socks))?;
    kernel::read(member, offset!(sk_cookie))
}

#[inline(always)]
fn socket_address(ctx: &SkReuseportContext) -> Option<u64> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    let address = ctx.sk().as_ptr() as u64;
    // SAFETY: `scratch` is this processor's own element of the map. Nothing else that writes there
    // runs on this processor meanwhile.
    unsafe { scratch.write_volatile(address) };
    // SAFETY: as for the write just before.
    Some(unsafe { scratch.read_volatile() })
}
