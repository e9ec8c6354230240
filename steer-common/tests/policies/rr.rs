//! `rr` is exact over every window, and a worker that drops out leaves its share to all others.

use proptest::prelude::*;
use steer_common::policy::Policy;
use steer_views::{Group, Member, turns_of};

fn counts(chosen: &[u32], slots: usize) -> Vec<u32> {
    let mut counts = vec![0; slots];
    for slot in chosen {
        counts[*slot as usize] += 1;
    }
    counts
}

proptest! {
    #[test]
    fn every_window_gives_each_worker_its_weight(
        weights in prop::collection::vec(1_u32..=64, 1..20),
        start in 0_u64..10_000,
    ) {
        let group = Group::new(weights.iter().copied().map(Member::idle).collect());
        group.cursor.set(start);
        let window = weights.iter().sum::<u32>() as usize;
        let chosen: Vec<u32> = (0..3 * window).map(|_| group.select(Policy::Rr)).collect();
        for begin in 0..2 * window {
            prop_assert_eq!(&counts(&chosen[begin..begin + window], weights.len()), &weights);
        }
    }

    #[test]
    fn turns_are_spread(weights in prop::collection::vec(1_u32..=16, 2..10)) {
        let members: Vec<Member> = weights.iter().copied().map(Member::idle).collect();
        let turns = turns_of(&members);
        let round = turns.len() as f64;
        let total: u32 = weights.iter().sum();
        for (slot, weight) in (0_u32..).zip(&weights) {
            // In any part of the round a worker is at most about a turn away from its due, which
            // a schedule that gives it all its turns in a row is not.
            let share = f64::from(*weight) / f64::from(total);
            let mut had = 0.0;
            for (index, turn) in turns.iter().enumerate() {
                had += f64::from(u32::from(*turn == slot));
                let due = share * (index + 1) as f64;
                prop_assert!((had - due).abs() <= 1.0 + round / 100.0 + weights.len() as f64 / 2.0);
            }
        }
    }

    #[test]
    fn the_share_of_one_that_drops_out_goes_to_all(
        workers in 3_usize..20,
        gone in 0_usize..20,
    ) {
        let gone = gone % workers;
        let mut group = Group::new(vec![Member::idle(1); workers]);
        // Its turns are still laid out, as they are until the loader has noticed.
        group.members[gone].eligible = false;
        let rounds = 100 * (workers - 1);
        let chosen: Vec<u32> = (0..rounds).map(|_| group.select(Policy::Rr)).collect();
        let counts = counts(&chosen, workers);
        for (slot, count) in counts.iter().enumerate() {
            prop_assert_eq!(*count, if slot == gone { 0 } else { 100 });
        }
    }
}

#[test]
fn weights_with_a_common_divisor_make_a_short_round() {
    let turns = turns_of(&[Member::idle(64), Member::idle(32)]);
    assert_eq!(turns.len(), 3);
}

#[test]
fn equal_weights_take_turns_in_order() {
    assert_eq!(turns_of(&[Member::idle(1); 4]), [0, 1, 2, 3]);
}

#[test]
fn a_heavy_worker_does_not_get_its_turns_in_a_row() {
    let turns = turns_of(&[Member::idle(4), Member::idle(1), Member::idle(1)]);
    assert_eq!(turns, [0, 0, 1, 2, 0, 0]);
}
