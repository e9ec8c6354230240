//! A group as values of maps.

use bytemuck::{Pod, Zeroable};
use steer_common::{
    limits::{MAX_SLOTS, MAX_TURNS},
    policy::Selection,
    view::Loop,
};

/// A group, which the kernel only reads, and what to do with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Written {
    /// One of [`steer_common::policy::Policy`].
    pub policy: u32,
    /// What the view says.
    pub slot_mask: u32,
    /// What the view says.
    pub flow: u32,
    /// What the view says.
    pub client: u32,
    /// How many of `turns` there are.
    pub turns_len: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
    /// How long a job takes, in nanoseconds.
    pub mean: u64,
    /// The workers, by slot.
    pub members: [WrittenMember; MAX_SLOTS as usize],
    /// One round of turns.
    pub turns: [u32; MAX_TURNS as usize],
}

/// One worker.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct WrittenMember {
    /// Nanoseconds of `event_loop`.
    time: u64,
    /// One of the constants below; any other number is unknown.
    event_loop: u32,
    /// [`steer_common::slot::inverse_weight`] of its weight.
    pub inverse_weight: u32,
    /// Connections that it has not closed.
    pub active: u32,
    /// Handshakes in flight on its listener.
    pub handshakes: u32,
    /// Connections that it hasn't read from yet.
    pub fresh: u32,
    /// Others on which a request waits.
    pub ready: u32,
    /// 1 where it may be selected.
    pub eligible: u32,
    /// 1 where it is not accepted when it is selected.
    pub refused: u32,
}

/// [`WrittenMember::event_loop`].
const WAITING: u32 = 1;
const BETWEEN: u32 = 2;
const BUSY: u32 = 3;

impl WrittenMember {
    /// What its event loop does.
    #[inline(always)]
    pub const fn event_loop(&self) -> Loop {
        match self.event_loop {
            WAITING => Loop::Waiting,
            BETWEEN => Loop::Between,
            BUSY => Loop::Busy(self.time),
            _ => Loop::Unknown,
        }
    }
}

/// What one selection moves: the kernel finds it as it is before, and leaves it as it is after.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct State {
    /// Where the arrivals' cursor stands.
    pub cursor: u64,
    /// State of the generator of random numbers.
    pub random: u32,
    /// Expensive signals that were asked for.
    pub reads: u32,
    /// How the selection ended: [`raw_selection`], or [`NOT_RUN`].
    pub selection: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
}

/// [`State::selection`] before there is one.
pub const NOT_RUN: u32 = u32::MAX;

/// How a selection ends as a number: the slot, or one that is no slot's.
#[inline(always)]
pub const fn raw_selection(selection: Selection) -> u32 {
    match selection {
        Selection::Slot(slot) => slot,
        Selection::NoWorker => MAX_SLOTS,
        Selection::Refused => MAX_SLOTS + 1,
    }
}

#[cfg(feature = "host")]
mod host {
    use std::boxed::Box;

    use bytemuck::Zeroable as _;
    use steer_common::{policy::Policy, slot::inverse_weight, view::View as _};

    use super::{BETWEEN, BUSY, Loop, NOT_RUN, State, WAITING, Written, WrittenMember};
    use crate::{Group, Member};

    /// [`WrittenMember::event_loop`].
    const UNKNOWN: u32 = 0;

    impl Written {
        /// A group, of which the slots that `refuses` returns true of are not accepted.
        pub fn new(group: &Group, policy: Policy, refuses: impl Fn(u32) -> bool) -> Box<Self> {
            let mut written = bytemuck::zeroed_box::<Self>();
            written.policy = policy as u32;
            written.slot_mask = group.slot_mask();
            written.flow = group.flow;
            written.client = group.client;
            written.mean = group.mean;
            written.turns_len = group.turns.len() as u32;
            written.turns[..group.turns.len()].copy_from_slice(&group.turns);
            for (slot, member) in (0..).zip(&group.members) {
                written.members[slot as usize] = WrittenMember::new(member, refuses(slot));
            }
            written
        }
    }

    impl WrittenMember {
        fn new(member: &Member, refused: bool) -> Self {
            let (event_loop, time) = match member.event_loop {
                Loop::Unknown => (UNKNOWN, 0),
                Loop::Waiting => (WAITING, 0),
                Loop::Between => (BETWEEN, 0),
                Loop::Busy(time) => (BUSY, time),
            };
            Self {
                time,
                event_loop,
                inverse_weight: inverse_weight(member.weight),
                active: member.active,
                handshakes: member.handshakes,
                fresh: member.fresh,
                ready: member.ready,
                eligible: member.eligible.into(),
                refused: refused.into(),
            }
        }
    }

    impl State {
        /// What a group says of it, before any selection.
        pub fn of(group: &Group) -> Self {
            Self {
                cursor: group.cursor.get(),
                random: group.random.get(),
                reads: group.reads.get(),
                selection: NOT_RUN,
                ..Self::zeroed()
            }
        }
    }
}
