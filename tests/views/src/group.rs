//! A group of workers, as the tests on the host have it.

use core::cell::Cell;
use std::{vec, vec::Vec};

use proptest::prelude::*;
use steer_common::{
    policy::{Direct, Policy, Selection, least::READY},
    slot::inverse_weight,
    turns::{Claim, lay_out},
    view::{Handle, Loop, View, Worker},
};

use crate::{Member, next_random, rest, shown};

prop_compose! {
    /// Any worker.
    pub fn member()(
        eligible in prop::bool::weighted(0.8),
        weight in 1_u32..=64,
        active in 0_u32..200,
        handshakes in 0_u32..20,
        fresh in prop_oneof![Just(0_u32), 0_u32..4],
        ready in 0_u32..=READY,
        event_loop in event_loop(),
    ) -> Member {
        Member { eligible, weight, active, handshakes, fresh, ready, event_loop }
    }
}

/// Any event loop of which something is known.
pub fn event_loop() -> impl Strategy<Value = Loop> {
    prop_oneof![
        Just(Loop::Waiting),
        Just(Loop::Between),
        Just(Loop::Busy(0)),
        (0_u64..1 << 30).prop_map(Loop::Busy),
        (0_u64..1 << 40).prop_map(Loop::Busy),
    ]
}

/// A group as the loader would lay it out, and as the policies see it.
#[derive(Clone, Debug)]
pub struct Group {
    /// The workers, by slot.
    pub members: Vec<Member>,
    /// One round of turns, laid out for the workers that could be selected at the beginning.
    pub turns: Vec<u32>,
    /// Where the cursor stands. One cursor serves all arrivals.
    pub cursor: Cell<u64>,
    /// The state of the generator of random numbers.
    pub random: Cell<u32>,
    /// The hash of the connection.
    pub flow: u32,
    /// The hash of the client's address.
    pub client: u32,
    /// How long a job takes, in nanoseconds.
    pub mean: u64,
    /// How many expensive signals were asked for, each question counted by itself.
    pub reads: Cell<u32>,
}

impl Group {
    /// Makes a group of these workers.
    pub fn new(members: Vec<Member>) -> Self {
        let turns = turns_of(&members);
        Self {
            members,
            turns,
            cursor: Cell::new(0),
            random: Cell::new(1),
            flow: 0,
            client: 0,
            mean: 10_000_000,
            reads: Cell::new(0),
        }
    }

    /// Whether any worker may be selected.
    pub fn any_eligible(&self) -> bool {
        self.members.iter().any(|member| member.eligible)
    }

    /// The slot that a policy selects if every eligible slot is accepted.
    pub fn select(&self, policy: Policy) -> u32 {
        let Selection::Slot(slot) = policy.select(self, |_| true) else {
            panic!("no slot");
        };
        slot
    }
}

/// One round of turns of the workers that may be selected.
pub fn turns_of(members: &[Member]) -> Vec<u32> {
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

    fn fresh(&self, worker: &Worker) -> u32 {
        self.members[worker.handle.slot as usize].fresh
    }

    fn ready(&self, worker: &Worker, most: u32) -> u32 {
        self.reads.set(self.reads.get() + 1);
        self.members[worker.handle.slot as usize].ready.min(most)
    }

    fn mean(&self) -> u64 {
        self.mean
    }

    fn rest(&self, age: u64) -> u64 {
        rest(self.mean, age)
    }

    fn ticket(&self) -> u64 {
        let ticket = self.cursor.get();
        // The cursor wraps around, as the kernel's does.
        self.cursor.set(ticket.wrapping_add(1));
        ticket
    }

    fn turn(&self, ticket: u64) -> Option<u32> {
        let len = self.turns.len() as u64;
        (len > 0).then(|| self.turns[(ticket % len) as usize])
    }

    fn random(&self) -> u32 {
        self.random.set(next_random(self.random.get()));
        shown(self.random.get())
    }

    fn flow(&self) -> u32 {
        self.flow
    }

    fn client(&self) -> u32 {
        self.client
    }
}

impl Direct for Group {}
