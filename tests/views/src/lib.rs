//! Groups made up for the tests of the policies.
//!
//! [`Group`] is what the policies see on the host. [`Written`] is the same group for the kernel.
//! It is laid out as the value of a map, and a program that the tests can run makes the policies'
//! view of it.
#![no_std]

#[cfg(feature = "host")]
extern crate std;

#[cfg(feature = "host")]
mod group;
mod member;
mod written;

#[cfg(feature = "host")]
pub use group::{Group, event_loop, member, turns_of};
pub use member::{Member, rest};
pub use written::{NOT_RUN, State, Written, WrittenMember, raw_selection};

/// The random number after this one, which is also the next state of the generator (the generator
/// of Numerical Recipes). Each state is reached only once in 2^32 steps, so the state tells how
/// many numbers were drawn.
#[inline(always)]
pub const fn next_random(state: u32) -> u32 {
    state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}

/// The number that the view shows for a state of the generator. The upper bits of the state are
/// the good ones. They become the lower half, because a turn is the number's remainder.
#[inline(always)]
pub const fn shown(state: u32) -> u32 {
    state.rotate_left(16)
}
