//! Which worker gets which slot. This is pure, so that it is tested without a kernel.

use std::collections::BTreeSet;

use steer_common::{
    limits::MAX_SLOTS,
    slot::{Slot, SlotState, flags},
};

use crate::{state::table::Use, survey::proc::holders::Holder};

/// A worker that should have a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Cookie of its listener.
    pub cookie: u64,
    /// Kernel address of its listener.
    pub sock: u64,
    /// Kernel address of the wait queue in which its event loop waits. 0 if that isn't known.
    pub waiters: u64,
    /// The process that serves it.
    pub owner: Holder,
    /// What is undecided about the process, as [`steer_common::slot::flags`].
    pub marks: u32,
}

/// The flags of a slot that come from [`Wanted::marks`].
pub const MARKS: u32 = flags::NOT_SEEN | flags::SHARED;

/// One change of the table of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The slot's worker is gone, or nobody serves its listener any more.
    Leave {
        /// The slot.
        slot: u32,
    },
    /// What the table says of the slot's worker has changed: another process serves the listener,
    /// for example.
    Refresh {
        /// The slot.
        slot: u32,
        /// The worker.
        worker: Wanted,
    },
    /// A listener that nobody served is served again: it gets its slot and its counts back.
    Return {
        /// The slot.
        slot: u32,
        /// The worker.
        worker: Wanted,
    },
    /// A worker gets a slot.
    Join {
        /// The slot.
        slot: u32,
        /// The worker.
        worker: Wanted,
    },
    /// No slot is left for a worker. It keeps the share that the kernel's hash gives it.
    Surplus {
        /// The worker.
        worker: Wanted,
    },
}

/// Plans the steps after which exactly the wanted workers have slots.
///
/// A slot isn't given to another worker while connections of its former worker are open. Low
/// slots are given first, so that the table stays short.
pub fn plan(table: &[Slot], usage: impl Fn(u32) -> Use, wanted: &[Wanted]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut free: Vec<u32> = Vec::new();
    let mut kept = BTreeSet::new();
    for (slot, entry) in (0..).zip(table) {
        let live = entry.state == SlotState::Live as u32;
        let usage = usage(slot);
        let is_other = |live: &Slot| live.state == SlotState::Live as u32;
        let elsewhere = || {
            let mut others = table.iter().filter(|other| is_other(other));
            others.any(|other| other.cookie == entry.cookie)
        };
        let returns = entry.state == SlotState::Gone as u32 && !usage.closed && !elsewhere();
        // A table that another steer has written may have a listener twice.
        let stays = (live || returns) && !kept.contains(&entry.cookie);
        let worker = wanted
            .iter()
            .find(|worker| stays && worker.cookie == entry.cookie);
        kept.extend(worker.map(|worker| worker.cookie));
        match worker {
            Some(worker) if !live => steps.push(Step::Return {
                slot,
                worker: worker.clone(),
            }),
            Some(worker) if changed(entry, worker) => steps.push(Step::Refresh {
                slot,
                worker: worker.clone(),
            }),
            Some(_) => {}
            None => {
                if live {
                    steps.push(Step::Leave { slot });
                }
                if usage.active == 0 {
                    free.push(slot);
                }
            }
        }
    }
    free.extend(table.len() as u32..MAX_SLOTS);
    let mut free = free.into_iter();
    for worker in wanted
        .iter()
        .filter(|worker| !kept.contains(&worker.cookie))
    {
        let worker = worker.clone();
        steps.push(match free.next() {
            Some(slot) => Step::Join { slot, worker },
            None => Step::Surplus { worker },
        });
    }
    steps
}

fn changed(entry: &Slot, worker: &Wanted) -> bool {
    entry.pid != worker.owner.pid
        || entry.fd != worker.owner.fd
        || entry.comm != comm(&worker.owner.comm)
        || (worker.sock != 0 && entry.sock != worker.sock)
        || entry.waiters != worker.waiters
        || entry.flags & MARKS != worker.marks
}

/// A command name in the form that a slot has it.
pub fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    let length = name.len().min(comm.len());
    comm[..length].copy_from_slice(&name.as_bytes()[..length]);
    comm
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    use super::*;

    fn worker(cookie: u64) -> Wanted {
        Wanted {
            cookie,
            sock: cookie << 8,
            waiters: 0,
            owner: Holder {
                pid: cookie as u32,
                comm: "worker".into(),
                fd: 3,
                polls: true,
                by_epoll: true,
                opaque: false,
                io_uring: false,
            },
            marks: 0,
        }
    }

    fn with(active: u64) -> Use {
        Use {
            active,
            closed: false,
        }
    }

    /// Carries a plan out as the loader would.
    fn apply(table: &mut Vec<Slot>, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Leave { slot } => table[*slot as usize].state = SlotState::Gone as u32,
                Step::Refresh { slot, worker }
                | Step::Return { slot, worker }
                | Step::Join { slot, worker } => {
                    let slot = *slot as usize;
                    if slot >= table.len() {
                        table.resize(slot + 1, Slot::zeroed());
                    }
                    let entry = &mut table[slot];
                    entry.cookie = worker.cookie;
                    entry.sock = worker.sock;
                    entry.pid = worker.owner.pid;
                    entry.fd = worker.owner.fd;
                    entry.comm = comm(&worker.owner.comm);
                    entry.state = SlotState::Live as u32;
                }
                Step::Surplus { .. } => {}
            }
        }
    }

    fn live(table: &[Slot]) -> BTreeSet<u64> {
        table
            .iter()
            .filter(|slot| slot.state == SlotState::Live as u32)
            .map(|slot| slot.cookie)
            .collect()
    }

    #[test]
    fn a_slot_with_open_connections_is_not_given_away() {
        let mut table = Vec::new();
        apply(&mut table, &plan(&[], |_| with(0), &[worker(1), worker(2)]));
        let steps = plan(
            &table,
            |slot| with(u64::from(slot == 0)),
            &[worker(2), worker(3)],
        );
        assert_eq!(
            steps,
            [
                Step::Leave { slot: 0 },
                Step::Join {
                    slot: 2,
                    worker: worker(3)
                }
            ]
        );
    }

    #[test]
    fn a_listener_that_is_served_again_gets_its_slot_back() {
        let mut table = Vec::new();
        apply(&mut table, &plan(&[], |_| with(0), &[worker(1), worker(2)]));
        let steps = plan(&table, |_| with(1), &[worker(2)]);
        apply(&mut table, &steps);
        let steps = plan(&table, |_| with(1), &[worker(1), worker(2)]);
        let (slot, worker) = (0, worker(1));
        assert_eq!(steps, [Step::Return { slot, worker }]);
        // A listener that was shut down joins like another worker.
        let closed = |_| Use {
            active: 1,
            closed: true,
        };
        let steps = plan(&table, closed, &[self::worker(1), self::worker(2)]);
        let (slot, worker) = (2, self::worker(1));
        assert_eq!(steps, [Step::Join { slot, worker }]);
    }

    #[test]
    fn a_listener_has_one_slot() {
        let mut table = Vec::new();
        apply(&mut table, &plan(&[], |_| with(0), &[worker(1), worker(2)]));
        table[1] = table[0];
        let steps = plan(&table, |_| with(0), &[worker(1)]);
        assert_eq!(steps, [Step::Leave { slot: 1 }]);
    }

    #[test]
    fn what_has_no_slot_is_said() {
        let many: Vec<Wanted> = (1..=u64::from(MAX_SLOTS) + 2).map(worker).collect();
        let steps = plan(&[], |_| with(0), &many);
        let surplus = steps
            .iter()
            .filter(|step| matches!(step, Step::Surplus { .. }))
            .count();
        assert_eq!(surplus, 2);
    }

    proptest! {
        #[test]
        fn the_table_follows_the_workers(
            rounds in prop::collection::vec(prop::collection::btree_set(1_u64..40, 0..20), 1..12),
            busy in prop::collection::btree_set(0_u32..24, 0..8),
        ) {
            let mut table: Vec<Slot> = Vec::new();
            for cookies in rounds {
                let wanted: Vec<Wanted> = cookies.iter().copied().map(worker).collect();
                let before = table.clone();
                let steps = plan(&table, |slot| with(u64::from(busy.contains(&slot))), &wanted);
                apply(&mut table, &steps);
                prop_assert_eq!(live(&table), cookies);
                for (index, (was, is)) in before.iter().zip(&table).enumerate() {
                    let given_away = was.cookie != is.cookie && was.cookie != 0;
                    prop_assert!(!(given_away && busy.contains(&(index as u32))));
                }
                prop_assert!(plan(&table, |_| with(0), &wanted).is_empty());
            }
        }
    }
}
