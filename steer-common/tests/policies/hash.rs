//! `hash` spreads by weight, and only the connections of a worker that is out move.

use proptest::prelude::*;
use steer_common::policy::{Policy, mix::mix};
use steer_views::{Group, Member};

/// Where each of so many connections goes.
fn choices(group: &mut Group, connections: u32) -> Vec<u32> {
    (0..connections)
        .map(|connection| {
            group.flow = mix(connection, 77);
            group.select(Policy::Hash)
        })
        .collect()
}

fn share(chosen: &[u32], slot: u32) -> f64 {
    chosen.iter().filter(|chosen| **chosen == slot).count() as f64 / chosen.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn connections_are_spread_by_weight(weights in prop::collection::vec(1_u32..=64, 1..20)) {
        let total: u32 = weights.iter().sum();
        let mut group = Group::new(weights.iter().copied().map(Member::idle).collect());
        let chosen = choices(&mut group, 100_000);
        for (slot, weight) in (0..).zip(&weights) {
            let due = f64::from(*weight) / f64::from(total);
            prop_assert!((share(&chosen, slot) - due).abs() < 0.01);
        }
    }

    #[test]
    fn only_the_removed_workers_connections_move(
        weights in prop::collection::vec(1_u32..=16, 2..20),
        removed in any::<prop::sample::Index>(),
    ) {
        let total: u32 = weights.iter().sum();
        let removed = removed.index(weights.len());
        let mut group = Group::new(weights.iter().copied().map(Member::idle).collect());
        let before = choices(&mut group, 20_000);
        group.members[removed].eligible = false;
        let after = choices(&mut group, 20_000);
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before == after || *before == removed as u32);
        }
        // What was its is spread over all others.
        let left = f64::from(total - weights[removed]);
        for (slot, weight) in (0..).zip(&weights).filter(|(slot, _)| *slot != removed as u32) {
            prop_assert!((share(&after, slot) - f64::from(*weight) / left).abs() < 0.03);
        }
    }
}
