//! A group of workers on the host, for the tests of the policies.

use std::cell::Cell;

use steer_common::{
    slot::inverse_weight,
    turns::{Claim, lay_out},
    view::{View, Worker},
};

/// One worker of the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) live: bool,
    pub(crate) weight: u32,
    pub(crate) active: u32,
    pub(crate) handshakes: u32,
}

impl Member {
    pub(crate) fn idle(weight: u32) -> Self {
        Self {
            live: true,
            weight,
            active: 0,
            handshakes: 0,
        }
    }
}

/// A group as the loader would lay it out, and as the policies see it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    pub(crate) turns: Vec<u32>,
    pub(crate) cursor: Cell<u64>,
    pub(crate) handshake_reads: Cell<u32>,
}

impl Group {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        let turns = turns_of(&members);
        Self {
            members,
            turns,
            cursor: Cell::new(0),
            handshake_reads: Cell::new(0),
        }
    }
}

/// One round of turns of the live members.
pub(crate) fn turns_of(members: &[Member]) -> Vec<u32> {
    let claims: Vec<Claim> = (0..)
        .zip(members)
        .filter(|(_, member)| member.live)
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

    fn eligible(&self, slot: u32) -> Option<Worker> {
        let member = self.members.get(slot as usize)?;
        member.live.then(|| Worker {
            inverse_weight: inverse_weight(member.weight),
            active: member.active,
            handle: u64::from(slot),
        })
    }

    fn handshakes(&self, worker: &Worker) -> u32 {
        self.handshake_reads.set(self.handshake_reads.get() + 1);
        self.members[worker.handle as usize].handshakes
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
}
