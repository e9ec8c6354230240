//! `sticky` is faithful, moves only whom it must, and spreads clients by weight.

use proptest::prelude::*;
use steer_common::policy::{Policy, mix::mix};
use steer_views::{Group, Member};

/// Where each of so many clients goes.
fn choices(group: &mut Group, clients: u32) -> Vec<u32> {
    (0..clients)
        .map(|client| {
            group.client = mix(client, 4711);
            group.select(Policy::Sticky)
        })
        .collect()
}

/// The part of the clients that aren't where they would be in an exact spread by weight.
fn misplaced(chosen: &[u32], weights: &[u32]) -> f64 {
    let total: u32 = weights.iter().sum();
    let clients = chosen.len() as f64;
    let off: f64 = (0..)
        .zip(weights)
        .map(|(slot, weight)| {
            let count = chosen.iter().filter(|chosen| **chosen == slot).count() as f64;
            (count - clients * f64::from(*weight) / f64::from(total)).abs()
        })
        .sum();
    off / 2.0 / clients
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn clients_are_spread_by_weight(weights in prop::collection::vec(1_u32..=64, 1..32)) {
        let mut group = Group::new(weights.iter().copied().map(Member::idle).collect());
        let chosen = choices(&mut group, 100_000);
        prop_assert!(misplaced(&chosen, &weights) < 0.02, "{}", misplaced(&chosen, &weights));
    }

    #[test]
    fn only_the_removed_workers_clients_move_and_they_come_back(
        weights in prop::collection::vec(1_u32..=64, 2..32),
        removed in any::<prop::sample::Index>(),
    ) {
        let removed = removed.index(weights.len());
        let mut group = Group::new(weights.iter().copied().map(Member::idle).collect());
        let before = choices(&mut group, 10_000);
        group.members[removed].eligible = false;
        let without = choices(&mut group, 10_000);
        for (before, without) in before.iter().zip(&without) {
            prop_assert!(before == without || *before == removed as u32);
        }
        let mut others = weights;
        others[removed] = 0;
        prop_assert!(misplaced(&without, &others) < 0.03);
        group.members[removed].eligible = true;
        prop_assert_eq!(choices(&mut group, 10_000), before);
    }

    #[test]
    fn load_moves_nobody(clients in 1_u32..1000, active in 1_u32..1000) {
        let mut group = Group::new(vec![Member::idle(1); 8]);
        let before = choices(&mut group, clients);
        group.members[3].active = active;
        prop_assert_eq!(choices(&mut group, clients), before);
    }
}
