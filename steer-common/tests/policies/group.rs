//! A group of workers on the host, for the tests of the policies.

use std::cell::Cell;

use proptest::prelude::*;
use steer_common::{
    policy::{Policy, Selection},
    slot::inverse_weight,
    turns::{Claim, lay_out},
    view::{Handle, Loop, View, Worker, YOUNG},
};

/// One worker of the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// Whether it may be selected.
    pub(crate) eligible: bool,
    pub(crate) weight: u32,
    pub(crate) active: u32,
    pub(crate) handshakes: u32,
    pub(crate) event_loop: Loop,
}

impl Member {
    pub(crate) fn idle(weight: u32) -> Self {
        Self {
            eligible: true,
            weight,
            active: 0,
            handshakes: 0,
            event_loop: Loop::IDLE,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.event_loop, Loop::Busy(_) | Loop::Waiting(..YOUNG))
    }

    /// Connections that it has and is about to have, and one more, for its weight.
    pub(crate) fn load(&self) -> f64 {
        f64::from(self.active + self.handshakes + 1) / f64::from(self.weight)
    }
}

prop_compose! {
    /// Any worker.
    pub(crate) fn member()(
        eligible in prop::bool::weighted(0.8),
        weight in 1_u32..=64,
        active in 0_u32..200,
        handshakes in 0_u32..20,
        event_loop in prop_oneof![
            (0_u64..1 << 24).prop_map(Loop::Waiting),
            Just(Loop::Unknown),
            (0_u64..1 << 40).prop_map(Loop::Busy),
        ],
    ) -> Member {
        Member { eligible, weight, active, handshakes, event_loop }
    }
}

/// A group as the loader would lay it out, and as the policies see it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    /// Laid out for the workers that could be selected at the beginning.
    pub(crate) turns: Vec<u32>,
    pub(crate) cursor: Cell<u64>,
    pub(crate) random: Cell<u32>,
    pub(crate) flow: u32,
    pub(crate) client: u32,
    /// Workers that were asked for an expensive signal, each question for itself.
    pub(crate) reads: Cell<u32>,
}

impl Group {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        let turns = turns_of(&members);
        Self {
            members,
            turns,
            cursor: Cell::new(0),
            random: Cell::new(1),
            flow: 0,
            client: 0,
            reads: Cell::new(0),
        }
    }

    pub(crate) fn any_eligible(&self) -> bool {
        self.members.iter().any(|member| member.eligible)
    }

    /// The slot that a policy selects; every eligible one is accepted.
    pub(crate) fn select(&self, policy: Policy) -> u32 {
        let Selection::Slot(slot) = policy.select(self, |_| true) else {
            panic!("no slot");
        };
        slot
    }
}

/// One round of turns of the workers that may be selected.
pub(crate) fn turns_of(members: &[Member]) -> Vec<u32> {
    let claims: Vec<Claim> = (0..)
        .zip(members)
        .filter(|(_, member)| member.eligible)
        .map(|(slot, member)| Claim {
            slot,
            weight: member.weight,
        })
        .collect();
    let mut turns = vec![0; claims.iter().map(|claim| claim.weight as usize).sum()];
    let count = lay_out(&claims, &mut vec![0; claims.len()], &mut turns);
    turns.truncate(count);
    turns
}

impl View for Group {
    fn slot_mask(&self) -> u32 {
        (self.members.len() as u32).next_power_of_two() - 1
    }

    fn worker(&self, slot: u32) -> Option<Worker> {
        let member = self.members.get(slot as usize)?;
        member.eligible.then(|| Worker {
            inverse_weight: inverse_weight(member.weight),
            active: member.active,
            handle: Handle {
                slot,
                ..Handle::default()
            },
        })
    }

    fn handshakes(&self, worker: &Worker) -> u32 {
        self.reads.set(self.reads.get() + 1);
        self.members[worker.handle.slot as usize].handshakes
    }

    fn event_loop(&self, worker: &Worker) -> Loop {
        self.reads.set(self.reads.get() + 1);
        self.members[worker.handle.slot as usize].event_loop
    }

    fn ticket(&self) -> u64 {
        let ticket = self.cursor.get();
        self.cursor.set(ticket + 1);
        ticket
    }

    fn turn(&self, ticket: u64) -> Option<u32> {
        let len = self.turns.len() as u64;
        (len > 0).then(|| self.turns[(ticket % len) as usize])
    }

    fn random(&self) -> u32 {
        // The generator of Numerical Recipes; its upper bits are the good ones.
        let next = self
            .random
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.set(next);
        next.rotate_left(16)
    }

    fn flow(&self) -> u32 {
        self.flow
    }

    fn client(&self) -> u32 {
        self.client
    }
}
