//! What holds for every policy.

use proptest::prelude::*;
use steer_common::{
    limits::{MAX_SLOTS, MAX_TRIES},
    policy::{Policy, Selection},
};
use steer_views::{Group, Member, member};

proptest! {
    #[test]
    fn nobody_ineligible_is_named(
        members in prop::collection::vec(member(), 1..MAX_SLOTS as usize),
        cursor in any::<u64>(),
        random in any::<u32>(),
        flow in any::<u32>(),
        client in any::<u32>(),
    ) {
        let mut group = Group::new(members);
        group.flow = flow;
        group.client = client;
        for policy in Policy::ALL {
            group.cursor.set(cursor);
            group.random.set(random);
            if group.any_eligible() {
                let slot = group.select(policy);
                prop_assert!(group.members[slot as usize].eligible, "{}", policy.name());
            } else {
                prop_assert_eq!(policy.select(&group, |_| true), Selection::NoWorker);
            }
        }
    }

    /// Between the end of a worker and the loader's next turns, its turns are still laid out.
    #[test]
    fn one_that_has_just_gone_is_passed_over(
        mut members in prop::collection::vec(member(), 2..64),
        gone in prop::collection::hash_set(0_usize..64, 1..MAX_TRIES as usize / 2),
        cursor in 0_u64..100_000,
    ) {
        for member in &mut members {
            member.eligible = true;
            member.weight = 1;
        }
        let mut group = Group::new(members);
        group.cursor.set(cursor);
        for slot in gone {
            if let Some(member) = group.members.get_mut(slot) {
                member.eligible = false;
            }
        }
        prop_assume!(group.any_eligible());
        for policy in Policy::ALL {
            let slot = group.select(policy);
            prop_assert!(group.members[slot as usize].eligible, "{}", policy.name());
        }
    }
}

#[test]
fn a_refused_slot_is_tried_elsewhere() {
    for policy in Policy::ALL {
        let group = Group::new(vec![Member::idle(1); 3]);
        assert_eq!(policy.select(&group, |slot| slot == 2), Selection::Slot(2));
        assert_eq!(policy.select(&group, |_| false), Selection::Refused);
    }
}

#[test]
fn nobody_is_there() {
    for policy in Policy::ALL {
        let group = Group::new(Vec::new());
        assert_eq!(policy.select(&group, |_| true), Selection::NoWorker);
        let mut group = Group::new(vec![Member::idle(1); 2]);
        for member in &mut group.members {
            member.eligible = false;
        }
        assert_eq!(policy.select(&group, |_| true), Selection::NoWorker);
    }
}

#[test]
fn raw_numbers_come_back() {
    for policy in Policy::ALL {
        assert_eq!(Policy::from_raw(policy as u32), policy);
    }
}
