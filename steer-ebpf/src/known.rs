//! Members of the group that steer doesn't have keep the share that the hash would give them.
//!
//! The kernel asks the program first and the hash only where the program selects nothing, so a
//! member that isn't in the socket map would get nothing. While there may be such members, the
//! program works out which one the hash would choose, and leaves the packet to the hash where that
//! one isn't known.
//!
//! Whether there may be is what the tracker counts. It ends with its pins, though, and a program that is
//! attached doesn't. So now and then the hash's choice is looked at whatever the tracker says.

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

/// A socket pointer turns into a number that can be computed with by going through memory.
#[btf_map]
static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Of so many packets one is looked at though all members are said to be known.
const LOOK_EVERY: u32 = 32;

/// How many packets are looked at after one of an unknown member's that nobody had told of.
const DOUBTS: u64 = 4096;

/// Whether steer may select for this packet, or why the hash should.
#[inline(always)]
pub(crate) fn may_select(
    ctx: &SkReuseportContext,
    config: &GroupConfig,
    counters: *mut GroupCounters,
) -> Result<(), Hashed> {
    // SAFETY: a pointer into a map, of which a field is taken by address only.
    let doubts = unsafe { &raw mut (*counters).doubts };
    // SAFETY: within a map value, valid as long as the program runs; others may write it meanwhile,
    // which makes it some packets more or less.
    let doubted = unsafe { doubts.read_volatile() };
    let all_known = attachments::joins().is_some_and(|joins| joins == config.joins_seen);
    // The hash chooses by the number's upper bits, and this goes by its lower ones.
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
        // SAFETY: as above.
        unsafe { doubts.write_volatile(left) };
    }
    outcome
}

/// Whether steer has a member that the hash chooses, or knows that it is to get nothing. One whose slot says
/// that it has closed was shut down and listens again, and nobody has given it a slot anew.
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

/// The socket cookie of the member that the kernel's hash would choose: what
/// `reuseport_select_sock_by_hash` of net/core/sock_reuseport.c computes.
///
/// From Linux 6.2 on that prefers the next member whose SO_INCOMING_CPU is this processor. Which one that is
/// takes a look at each member, in a loop that no verifier of 6.1 follows. So nothing is told of a group with
/// such members as long as there may be unknown ones, and the hash places all of its connections meanwhile.
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
    // SAFETY: this processor's own element of the map; nothing else runs on it meanwhile that
    // writes there.
    unsafe { scratch.write_volatile(address) };
    // SAFETY: as above.
    Some(unsafe { scratch.read_volatile() })
}
