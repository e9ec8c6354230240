//! `least` chooses who waits, then the least loaded, reads no more than it must, and takes ties in
//! turn.

use proptest::prelude::*;
use steer_common::{
    limits::MAX_SLOTS,
    policy::{LeastCosts, Policy},
    view::{Loop, YOUNG},
};
use steer_views::{Group, Member, member};

/// In a group of fewer every worker may be a finalist.
const ALL_FINALISTS: usize = LeastCosts::STEER.finalists as usize;

fn cost(member: &Member) -> f64 {
    let costs = LeastCosts::STEER;
    let busy = match member.event_loop {
        Loop::Busy(time) => costs.busy + (time >> costs.busy_shift).min(costs.busy_longest),
        Loop::Waiting(age) if age < YOUNG || member.handshakes > 0 => costs.busy,
        Loop::Waiting(_) | Loop::Unknown => 0,
    };
    member.load() + busy as f64 / f64::from(member.weight)
}

proptest! {
    #[test]
    fn nobody_eligible_costs_less(
        members in prop::collection::vec(member(), 1..ALL_FINALISTS),
        cursor in 0_u64..1000,
    ) {
        let group = Group::new(members);
        group.cursor.set(cursor);
        prop_assume!(group.any_eligible());
        let chosen = group.members[group.select(Policy::Least) as usize];
        for member in group.members.iter().filter(|member| member.eligible) {
            // The inverse of a weight is rounded to a part in 2^14 at the largest weight.
            prop_assert!(cost(&chosen) <= cost(member) * 1.0002);
        }
    }

    #[test]
    fn a_waiting_one_goes_before_all_busy_ones(
        mut members in prop::collection::vec(member(), 1..ALL_FINALISTS),
        waiting in any::<prop::sample::Index>(),
        connections in 0_u32..10_000,
        cursor in 0_u64..1000,
    ) {
        for member in &mut members {
            member.eligible = true;
            member.weight = 1;
            member.event_loop = Loop::Busy(0);
        }
        let waiting = waiting.index(members.len());
        members[waiting].event_loop = Loop::IDLE;
        members[waiting].active = connections;
        members[waiting].handshakes = 0;
        let group = Group::new(members);
        group.cursor.set(cursor);
        prop_assert_eq!(group.select(Policy::Least), waiting as u32);
    }

    #[test]
    fn idle_workers_cost_two_reads(
        workers in 1_usize..MAX_SLOTS as usize,
        cursor in any::<u64>(),
    ) {
        let group = Group::new(vec![Member::idle(1); workers]);
        group.cursor.set(cursor);
        group.select(Policy::Least);
        prop_assert_eq!(group.reads.get(), 2);
    }

    #[test]
    fn reads_are_bounded(
        members in prop::collection::vec(member(), 1..MAX_SLOTS as usize),
        cursor in any::<u64>(),
    ) {
        let group = Group::new(members);
        prop_assume!(group.any_eligible());
        group.cursor.set(cursor);
        group.select(Policy::Least);
        prop_assert!(group.reads.get() <= 2 * LeastCosts::STEER.finalists as u32);
    }

    #[test]
    fn ties_go_round(workers in 1_usize..MAX_SLOTS as usize, cursor in 0_u64..1 << 30) {
        let group = Group::new(vec![Member::idle(1); workers]);
        group.cursor.set(cursor);
        let mut chosen: Vec<u32> = (0..workers).map(|_| group.select(Policy::Least)).collect();
        chosen.sort_unstable();
        prop_assert_eq!(chosen, (0..workers as u32).collect::<Vec<u32>>());
    }
}

#[test]
fn a_burst_of_handshakes_is_spread() {
    let mut group = Group::new(vec![Member::idle(1); 8]);
    for _ in 0..64 {
        let slot = group.select(Policy::Least);
        group.members[slot as usize].handshakes += 1;
    }
    assert!(group.members.iter().all(|member| member.handshakes == 8));
}

#[test]
fn a_burst_is_spread_whoever_reads_first() {
    // Two of them have accepted and wait for their requests, the third has begun its own.
    let mut group = Group::new(vec![Member::idle(1); 3]);
    for member in &mut group.members {
        member.active = 1;
        member.event_loop = Loop::Waiting(10_000);
    }
    group.members[1].event_loop = Loop::Busy(10_000);
    for _ in 0..30 {
        let slot = group.select(Policy::Least);
        group.members[slot as usize].active += 1;
    }
    assert!(group.members.iter().all(|member| member.active == 11));
}

#[test]
fn weights_divide() {
    let mut group = Group::new(vec![Member::idle(3), Member::idle(1)]);
    for _ in 0..400 {
        let slot = group.select(Policy::Least);
        group.members[slot as usize].active += 1;
    }
    assert_eq!(group.members[0].active, 300);
}

#[test]
fn who_is_busy_for_long_goes_last() {
    let mut group = Group::new(vec![Member::idle(1); 4]);
    for (member, milliseconds) in group.members.iter_mut().zip([200, 2, 200, 200]) {
        member.active = 1;
        member.event_loop = Loop::Busy(milliseconds * 1_000_000);
    }
    assert_eq!(group.select(Policy::Least), 1);
    // Not at any price.
    group.members[1].active = 100;
    assert_ne!(group.select(Policy::Least), 1);
}
