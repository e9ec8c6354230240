//! A group as values of maps.

use bytemuck::{Pod, Zeroable};
use steer_common::{
    limits::{MAX_SLOTS, MAX_TURNS},
    policy::Selection,
    view::Loop,
};

/// A group and the policy to select by. The kernel only reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Written {
    /// One of [`steer_common::policy::Policy`].
    pub policy: u32,
    /// What the view says: [`steer_common::view::View::slot_mask`].
    pub slot_mask: u32,
    /// What the view says: [`steer_common::view::View::flow`].
    pub flow: u32,
    /// What the view says: [`steer_common::view::View::client`].
    pub client: u32,
    /// How many elements of `turns` are in use.
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

/// One worker of a group.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct WrittenMember {
    /// The age of the job if `event_loop` is [`BUSY`], in nanoseconds; else 0.
    time: u64,
    /// One of [`WAITING`], [`BETWEEN`] and [`BUSY`]. Any other number is [`Loop::Unknown`].
    event_loop: u32,
    /// [`steer_common::slot::inverse_weight`] of the worker's weight.
    pub inverse_weight: u32,
    /// How many connections the worker has not closed.
    pub active: u32,
    /// How many handshakes are in flight on the worker's listener.
    pub handshakes: u32,
    /// How many connections the worker hasn't read from yet.
    pub fresh: u32,
    /// How many other connections have a request that waits.
    pub ready: u32,
    /// 1 if the worker may be selected.
    pub eligible: u32,
    /// 1 if the worker is not accepted when it is selected.
    pub refused: u32,
}

/// Values of [`WrittenMember::event_loop`].
const WAITING: u32 = 1;
const BETWEEN: u32 = 2;
const BUSY: u32 = 3;

impl WrittenMember {
    /// What the worker's event loop does.
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

/// What a selection changes. The kernel finds the state as it is before the selection, and leaves
/// the state as it is after.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct State {
    /// Where the cursor stands. One cursor serves all arrivals.
    pub cursor: u64,
    /// The state of the generator of random numbers.
    pub random: u32,
    /// How many expensive signals were asked for.
    pub reads: u32,
    /// How the selection ended: [`raw_selection`] of it, or [`NOT_RUN`].
    pub selection: u32,
    /// Keeps the size a multiple of the alignment; zero.
    pub reserved: u32,
}

/// [`State::selection`] before the program has run.
pub const NOT_RUN: u32 = u32::MAX;

/// How a selection ends, as a number: the slot or, if there is none, a number that is no slot's.
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

    /// [`WrittenMember::event_loop`] of a loop of which nothing is known.
    const UNKNOWN: u32 = 0;

    impl Written {
        /// A group, for a selection that accepts no slot for which `refuses` returns true.
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
        /// The state of a group before a selection.
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
