//! `least` chooses a least loaded worker, reads no more than it must, and takes ties in turn.

use crate::group::{Group, Member};
use proptest::prelude::*;
use steer_common::policy::{Policy, Selection};

fn select(group: &Group) -> u32 {
    let Selection::Slot(slot) = Policy::Least.select(group, |_| true) else {
        panic!("no slot");
    };
    slot
}

prop_compose! {
    fn member()(
        live in prop::bool::weighted(0.8),
        weight in 1_u32..=64,
        active in 0_u32..200,
        handshakes in 0_u32..20,
    ) -> Member {
        Member { live, weight, active, handshakes }
    }
}

fn load(member: &Member) -> f64 {
    f64::from(member.active + member.handshakes + 1) / f64::from(member.weight)
}

proptest! {
    #[test]
    fn nobody_eligible_has_less(
        members in prop::collection::vec(member(), 1..64),
        cursor in 0_u64..1000,
    ) {
        let group = Group::new(members);
        group.cursor.set(cursor);
        prop_assume!(group.members.iter().any(|member| member.live));
        let chosen = group.members[select(&group) as usize];
        prop_assert!(chosen.live);
        for member in group.members.iter().filter(|member| member.live) {
            // The inverse of a weight is rounded to a part in 2^14 at the largest weight.
            prop_assert!(load(&chosen) <= load(member) * 1.0002);
        }
    }

    #[test]
    fn idle_workers_cost_one_read(workers in 1_usize..64, cursor in 0_u64..1000) {
        let group = Group::new(vec![Member::idle(1); workers]);
        group.cursor.set(cursor);
        select(&group);
        prop_assert_eq!(group.handshake_reads.get(), 1);
    }
}

#[test]
fn ties_go_round() {
    let group = Group::new(vec![Member::idle(1); 5]);
    let chosen: Vec<u32> = (0..10).map(|_| select(&group)).collect();
    assert_eq!(chosen, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn a_burst_of_handshakes_is_spread() {
    let mut group = Group::new(vec![Member::idle(1); 8]);
    for _ in 0..64 {
        let slot = select(&group);
        group.members[slot as usize].handshakes += 1;
    }
    assert!(group.members.iter().all(|member| member.handshakes == 8));
}

#[test]
fn weights_divide() {
    let mut group = Group::new(vec![Member::idle(3), Member::idle(1)]);
    for _ in 0..400 {
        let slot = select(&group);
        group.members[slot as usize].active += 1;
    }
    assert_eq!(group.members[0].active, 300);
}

#[test]
fn nobody_is_there() {
    let group = Group::new(Vec::new());
    assert_eq!(Policy::Least.select(&group, |_| true), Selection::NoWorker);
}
