use proptest::prelude::*;

use super::*;

const HEAD: u64 = 0x1000;

/// What a process does with the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It holds the listener, and does nothing else.
    Holds,
    /// It is blocked in accept().
    Blocks,
    /// Its epoll instance watches it.
    Polls,
    /// It has an epoll instance, which watches other things.
    PollsOthers,
}
use Does::{Blocks, Holds, Polls, PollsOthers};

fn holder(pid: u32, does: Does) -> Holder {
    Holder {
        pid,
        comm: "worker".into(),
        fd: 3,
        polls: matches!(does, Blocks | Polls),
        by_epoll: does == Polls,
        opaque: matches!(does, Holds | Blocks),
        io_uring: false,
    }
}

fn loop_of(pid: u32) -> u64 {
    u64::from(pid) << 16
}

/// The queue that these processes make.
fn queue(holders: &[(u32, Does)]) -> Queue {
    let of = |does| holders.iter().filter(move |(_, did)| *did == does);
    let first = of(Polls).next();
    Queue {
        loops: of(Polls).count() as u32,
        threads: of(Blocks).count() as u32,
        head: HEAD,
        entry: match (first, of(Blocks).next()) {
            (Some((pid, _)), _) => loop_of(*pid) + 8,
            (None, Some((pid, _))) => u64::from(*pid),
            (None, None) => 0,
        },
        event_loop: first.map_or(0, |(pid, _)| loop_of(*pid)),
    }
}

/// Shows the memory what these processes do.
fn see(memory: &mut Memory, state: &[(u32, Does)]) -> Serving {
    let holders: Vec<Holder> = state
        .iter()
        .map(|(pid, does)| holder(*pid, *does))
        .collect();
    memory.observe(&holders, queue(state))
}

fn is_by(serving: &Serving, pid: u32) -> bool {
    matches!(serving, Serving::By(holder, _) if holder.pid == pid)
}

#[test]
fn the_one_that_polls() {
    let mut memory = Memory::default();
    let serving = see(&mut memory, &[(1, Holds), (2, Polls), (3, PollsOthers)]);
    assert_eq!(serving, Serving::By(holder(2, Polls), None));
    assert_eq!(memory.event_loop(), loop_of(2));
    assert!(!memory.is_open());
}

#[test]
fn the_only_holder_until_another_one_is_seen() {
    let mut memory = Memory::default();
    let serving = see(&mut memory, &[(1, Holds)]);
    assert!(matches!(&serving, Serving::By(one, Some(Unsure::NotSeen(_))) if one.pid == 1));
    assert!(memory.is_open(), "nobody was seen to wait");
    assert_eq!(memory.event_loop(), 0);
    // The process was a manager, and its child begins to poll.
    let serving = see(&mut memory, &[(1, Holds), (2, Polls)]);
    assert!(is_by(&serving, 2));
    // The child ends, and is going to be replaced.
    assert_eq!(see(&mut memory, &[(1, Holds)]), Serving::Nobody);
    assert!(memory.is_open());
    assert!(is_by(&see(&mut memory, &[(1, Holds), (3, Polls)]), 3));
    assert_eq!(memory.event_loop(), loop_of(3));
}

#[test]
fn a_worker_that_is_busy_keeps_its_listener() {
    let mut memory = Memory::default();
    // The worker is busy when steer comes, and its helper holds the listener, too.
    let serving = see(&mut memory, &[(1, Holds), (2, Holds)]);
    assert!(matches!(
        serving,
        Serving::Undecided(Unsure::NotSeen(_), Some(_))
    ));
    assert!(is_by(&see(&mut memory, &[(1, Blocks), (2, Holds)]), 1));
    assert_eq!(memory.event_loop(), HEAD);
    for _ in 0..3 {
        let serving = see(&mut memory, &[(1, Holds), (2, Holds)]);
        assert_eq!(serving, Serving::By(holder(1, Holds), None));
        assert_eq!(memory.event_loop(), HEAD, "once learnt, it isn't lost");
        assert!(!memory.is_open());
    }
    // After the worker's end, the helper may be a worker as well: the one before was seen only
    // while it blocked.
    let serving = see(&mut memory, &[(2, Holds), (3, Holds)]);
    assert!(matches!(serving, Serving::Undecided(..)));
}

#[test]
fn a_hand_over_is_watched_to_its_end() {
    let mut memory = Memory::default();
    assert!(is_by(&see(&mut memory, &[(1, Holds), (2, Polls)]), 2));
    let serving = see(&mut memory, &[(1, Holds), (2, Polls), (3, Polls)]);
    assert!(matches!(&serving, Serving::By(old, Some(Unsure::Several(_))) if old.pid == 2));
    assert!(memory.is_open());
    assert_eq!(memory.event_loop(), 0, "it isn't known whose counts");
    assert!(is_by(&see(&mut memory, &[(1, Holds), (3, Polls)]), 3));
    assert_eq!(memory.event_loop(), loop_of(3));
    assert!(memory.is_open(), "the queue may be that of a moment before");
    assert!(is_by(&see(&mut memory, &[(1, Holds), (3, Polls)]), 3));
    assert!(!memory.is_open());
}

#[test]
fn two_accept_loops_of_one_listener() {
    let mut memory = Memory::default();
    assert!(is_by(&see(&mut memory, &[(1, Blocks), (2, Holds)]), 1));
    let serving = see(&mut memory, &[(1, Holds), (2, Blocks)]);
    assert!(matches!(&serving, Serving::By(one, Some(Unsure::Several(_))) if one.pid == 1));
    // The first worker ends while the other is busy.
    let serving = see(&mut memory, &[(2, Holds), (4, Holds)]);
    assert!(matches!(serving, Serving::Undecided(..)));
}

#[test]
fn several_from_the_beginning() {
    let mut memory = Memory::default();
    let serving = see(&mut memory, &[(1, Polls), (2, Polls)]);
    assert!(matches!(
        serving,
        Serving::Undecided(Unsure::Several(_), Some(_))
    ));
    assert!(memory.is_open());
    assert!(is_by(&see(&mut memory, &[(2, Polls)]), 2));
}

#[test]
fn a_listener_that_nobody_has() {
    let mut memory = Memory::default();
    let serving = see(&mut memory, &[]);
    assert_eq!(serving, Serving::Undecided(Unsure::NoHolder, None));
    assert!(memory.is_open());
}

#[test]
fn somebody_unseen_who_waits_is_somebody() {
    let mut memory = Memory::default();
    see(&mut memory, &[(1, Holds), (2, Polls)]);
    let serving = memory.observe(&[holder(1, Holds)], queue(&[(7, Polls)]));
    assert!(matches!(serving, Serving::Undecided(..)), "{serving:?}");
}

#[test]
fn what_an_earlier_steer_knew_goes_on() {
    let mut memory = Memory::of_slot(1, HEAD);
    let serving = see(&mut memory, &[(1, Holds), (2, Holds)]);
    assert!(is_by(&serving, 1));
    assert_eq!(memory.event_loop(), HEAD);
}

#[test]
fn a_look_is_wanted_where_it_can_show_something() {
    let mut memory = Memory::default();
    assert!(memory.wants_look(&Queue::default()));
    see(&mut memory, &[(1, Holds), (2, Blocks)]);
    let empty = queue(&[]);
    assert!(!memory.wants_look(&empty), "it is busy");
    assert!(!memory.wants_look(&queue(&[(2, Blocks)])));
    assert!(memory.wants_look(&queue(&[(3, Polls)])));
    let mut memory = Memory::default();
    see(&mut memory, &[(1, Holds), (2, Holds)]);
    assert!(!memory.wants_look(&empty), "nobody waits");
    assert!(memory.wants_look(&queue(&[(1, Blocks)])));
}

fn any_state() -> impl Strategy<Value = Vec<(u32, Does)>> {
    let does = prop_oneof![Just(Holds), Just(Blocks), Just(Polls), Just(PollsOthers)];
    let some = prop::collection::btree_map(1_u32..6, does, 0..4);
    some.prop_map(|some| some.into_iter().collect())
}

proptest! {
    /// Whatever was seen before:
    /// - whoever serves the listener holds it;
    /// - a process that serves the listener goes on doing so for as long as it holds it, unless
    ///   another is seen in its place;
    /// - nobody serves the listener only if nobody waits;
    /// - a known event loop is that of the process that serves the listener;
    /// - if nothing is open, nothing is undecided.
    #[test]
    fn any_history(states in prop::collection::vec(any_state(), 1..30)) {
        let mut memory = Memory::default();
        let mut former: Option<Serving> = None;
        for state in states {
            let serving = see(&mut memory, &state);
            let has = |pid: u32| state.iter().any(|(one, _)| *one == pid);
            let waits = |pid: u32| {
                let mut waiting = state.iter().filter(|(_, does)| matches!(does, Blocks | Polls));
                waiting.any(|(one, _)| *one == pid)
            };
            let waiting = state.iter().filter(|(_, does)| matches!(does, Blocks | Polls)).count();
            match &serving {
                Serving::By(owner, unsure) => {
                    prop_assert!(has(owner.pid));
                    if waiting > 1 {
                        prop_assert!(matches!(unsure, Some(Unsure::Several(_))));
                    }
                    if unsure.is_some() {
                        prop_assert!(memory.is_open());
                    }
                    if let Some(Serving::By(was, _)) = &former
                        && was.pid != owner.pid
                    {
                        prop_assert!(!has(was.pid) || waits(owner.pid));
                    }
                    let known = memory.event_loop();
                    prop_assert!(known == 0 || known == HEAD || known == loop_of(owner.pid));
                }
                Serving::Nobody => {
                    prop_assert_eq!(waiting, 0);
                    prop_assert!(!state.is_empty() && memory.is_open());
                    if let Some(Serving::By(was, _)) = &former {
                        prop_assert!(!has(was.pid));
                    }
                }
                Serving::Undecided(_, holder) => {
                    prop_assert!(memory.is_open() && memory.event_loop() == 0);
                    prop_assert_eq!(holder.is_none(), state.is_empty());
                    if let Some(Serving::By(was, _)) = &former {
                        prop_assert!(!has(was.pid));
                    }
                }
            }
            former = Some(serving);
        }
    }

    /// Once one process alone is seen to poll the listener, that process serves it, whatever was
    /// before.
    #[test]
    fn it_ends_with_the_one_that_polls(states in prop::collection::vec(any_state(), 0..20)) {
        let mut memory = Memory::default();
        for state in &states {
            see(&mut memory, state);
        }
        let end = [(1, Holds), (9, Polls)];
        // A process that was seen in accept() may be busy for as long as it holds the listener.
        see(&mut memory, &[(9, Polls)]);
        for _ in 0..2 {
            prop_assert_eq!(see(&mut memory, &end), Serving::By(holder(9, Polls), None));
        }
        prop_assert_eq!(memory.event_loop(), loop_of(9));
        prop_assert!(!memory.is_open());
    }
}
