//! `least` chooses who would begin first, reads no more than it must, and takes ties in turn.

use proptest::prelude::*;
use steer_common::{
    limits::MAX_SLOTS,
    policy::{
        Policy,
        least::{FINALISTS, cost},
    },
    view::Loop,
};
use steer_views::{Group, Member, member};

/// In a group of fewer every worker may be a finalist.
const ALL_FINALISTS: usize = FINALISTS as usize;

const MS: u64 = 1_000_000;

/// Whether a worker is no worse than another: costs are rounded to microseconds, and the inverse of a weight to
/// a part in 2^14 at the largest one.
fn is_no_worse(one: &Member, other: &Member, mean: u64) -> bool {
    one.time(mean) <= other.time(mean) * 1.0002 + 2048.0
}

proptest! {
    #[test]
    fn nobody_eligible_would_begin_earlier(
        members in prop::collection::vec(member(), 1..ALL_FINALISTS),
        cursor in 0_u64..1000,
        mean in 1..10_000 * MS,
    ) {
        let mut group = Group::new(members);
        group.cursor.set(cursor);
        group.mean = mean;
        prop_assume!(group.any_eligible());
        let chosen = group.members[group.select(Policy::Least) as usize];
        for member in group.members.iter().filter(|member| member.eligible) {
            prop_assert!(chosen.is_idle() || !member.is_idle());
            prop_assert!(chosen.is_idle() || is_no_worse(&chosen, member, mean));
        }
    }

    #[test]
    fn without_event_loops_connections_decide(
        mut members in prop::collection::vec(member(), 1..ALL_FINALISTS),
        cursor in 0_u64..1000,
    ) {
        for member in &mut members {
            member.event_loop = Loop::Unknown;
        }
        let group = Group::new(members);
        group.cursor.set(cursor);
        prop_assume!(group.any_eligible());
        let chosen = group.members[group.select(Policy::Least) as usize];
        let load = |member: &Member| {
            f64::from(member.active + member.handshakes + 1) / f64::from(member.weight)
        };
        for member in group.members.iter().filter(|member| member.eligible) {
            prop_assert!(load(&chosen) <= load(member) * 1.0002 + 0.002);
        }
    }

    #[test]
    fn a_waiting_one_goes_before_all_busy_ones(
        mut members in prop::collection::vec(member(), 1..ALL_FINALISTS),
        waiting in any::<prop::sample::Index>(),
        connections in any::<u32>(),
        cursor in 0_u64..1000,
        mean in 1..1000 * MS,
    ) {
        for member in &mut members {
            member.eligible = true;
            member.event_loop = Loop::Busy(0);
        }
        let waiting = waiting.index(members.len());
        members[waiting] = Member {
            active: connections,
            ..Member::idle(1)
        };
        let mut group = Group::new(members);
        group.mean = mean;
        group.cursor.set(cursor);
        prop_assert_eq!(group.select(Policy::Least), waiting as u32);
    }

    /// What is said of a bound is so for any bound: nothing that could win is given up early.
    #[test]
    fn a_bound_changes_no_cost(member in member(), bound in 1_u64..1 << 46, mean in 1..1000 * MS) {
        prop_assume!(member.eligible);
        let mut group = Group::new(vec![member]);
        group.mean = mean;
        // Where the requests that are counted are few enough that the bound doesn't end the counting.
        let full = cost(&group, 0, (1 << 46) - 1);
        let bounded = cost(&group, 0, bound);
        if full & (1 << 63) != 0 {
            prop_assert!(bounded == full || bounded == 0);
        } else if full < bound {
            prop_assert_eq!(bounded, full);
        } else {
            prop_assert!(bounded <= 1, "{}", bounded);
        }
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
        prop_assert!(group.reads.get() <= 3 * FINALISTS);
    }

    #[test]
    fn ties_go_round(workers in 1_usize..MAX_SLOTS as usize, cursor in 0_u64..1 << 30) {
        let group = Group::new(vec![Member::idle(1); workers]);
        group.cursor.set(cursor);
        let mut chosen: Vec<u32> = (0..workers).map(|_| group.select(Policy::Least)).collect();
        chosen.sort_unstable();
        prop_assert_eq!(chosen, (0..workers as u32).collect::<Vec<u32>>());
    }

    /// Jobs of one duration that begin at any gaps: each goes to who is done first, which is what turns do.
    #[test]
    fn equal_jobs_are_spread_as_in_turn(
        workers in 1_usize..16,
        gap in 0_u64..200 * MS,
    ) {
        let job = 100 * MS;
        let mut group = Group::new(vec![Member::idle(1); workers]);
        group.mean = job;
        let mut began = vec![None; workers];
        for round in 0..3 {
            for place in 0..workers {
                let now = (round * workers + place) as u64 * gap;
                for (member, began) in group.members.iter_mut().zip(&mut began) {
                    // Whoever is done goes on with the next one that waits.
                    while began.is_some_and(|at: u64| at + job <= now) {
                        member.active -= 1;
                        *began = (member.fresh > 0).then(|| began.expect("a job") + job);
                        member.fresh = member.fresh.saturating_sub(1);
                    }
                    member.event_loop = match *began {
                        None => Loop::Waiting,
                        Some(at) => Loop::Busy(now - at),
                    };
                }
                let most = group.members.iter().map(|member| member.active).max();
                let slot = group.select(Policy::Least) as usize;
                let least = group.members.iter().map(|member| member.active).min();
                prop_assert_eq!(Some(group.members[slot].active), least, "{:?} most", most);
                group.members[slot].active += 1;
                if began[slot].is_none() {
                    began[slot] = Some(now);
                } else {
                    group.members[slot].fresh += 1;
                }
            }
        }
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
        member.fresh = 1;
    }
    group.members[1].event_loop = Loop::Busy(0);
    group.members[1].fresh = 0;
    group.members[2].event_loop = Loop::Between;
    for _ in 0..30 {
        let slot = group.select(Policy::Least);
        group.members[slot as usize].active += 1;
        group.members[slot as usize].fresh += 1;
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
fn weights_divide_what_waits() {
    let mut group = Group::new(vec![Member::idle(3), Member::idle(1)]);
    for member in &mut group.members {
        member.event_loop = Loop::Busy(5 * MS);
    }
    for _ in 0..400 {
        let slot = group.select(Policy::Least);
        group.members[slot as usize].fresh += 1;
    }
    assert!(group.members[0].fresh.abs_diff(300) <= 1);
}

#[test]
fn who_is_done_first_goes_first() {
    // All jobs take 10 ms, and what runs for longer is stuck.
    let mut group = Group::new(vec![Member::idle(1); 4]);
    for (member, milliseconds) in group.members.iter_mut().zip([200, 2, 9, 200]) {
        member.active = 1;
        member.event_loop = Loop::Busy(milliseconds * MS);
    }
    assert_eq!(group.select(Policy::Least), 2);
    // Connections that are open only make no difference worth a millisecond.
    group.members[2].active = 100;
    assert_eq!(group.select(Policy::Least), 2);
    // What waits there does.
    group.members[2].ready = 1;
    assert_eq!(group.select(Policy::Least), 1);
    group.members[1].fresh = 2;
    assert_eq!(group.select(Policy::Least), 2);
}
