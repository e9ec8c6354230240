//! `p2c` never takes the more loaded of its two, and draws both by weight.

use proptest::prelude::*;
use steer_common::{policy::Policy, view::View as _};
use steer_views::{Group, Member, member};

proptest! {
    #[test]
    fn the_more_loaded_of_the_two_is_not_taken(
        members in prop::collection::vec(member(), 1..64),
        random in any::<u32>(),
    ) {
        let group = Group::new(members);
        prop_assume!(group.any_eligible());
        group.random.set(random);
        let drawn = [group.random(), group.random()].map(u64::from);
        let drawn = drawn.map(|random| group.turn(random).expect("a turn"));
        group.random.set(random);
        let chosen = group.select(Policy::P2c);
        prop_assert!(drawn.contains(&chosen));
        let taken = group.members[chosen as usize];
        for other in drawn.map(|slot| group.members[slot as usize]) {
            prop_assert!(taken.is_idle() || !other.is_idle() || !other.eligible);
            if taken.is_idle() == other.is_idle() && other.eligible && !taken.is_idle() {
                prop_assert!(taken.time(group.mean) <= other.time(group.mean) * 1.0002 + 2048.0);
            }
        }
    }
}

#[test]
fn weights_divide() {
    let group = Group::new(vec![Member::idle(3), Member::idle(1)]);
    let chosen = (0..10_000)
        .filter(|_| group.select(Policy::P2c) == 0)
        .count();
    // The lighter one is taken only where it is drawn twice.
    assert!((9_100..9_650).contains(&chosen), "{chosen}");
}
