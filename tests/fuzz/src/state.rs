//! What is in pinned maps, and what kernel programs write: another version's, or anybody's who had
//! the rights. The input is a group's configuration and counters, then slots with their counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use bytemuck::{Pod, Zeroable as _};
use steer_common::{
    config::{GroupConfig, contains},
    counters::{Counters, GroupCounters},
    event::{FileKind, Member, OpenFile},
    learn::Learned,
    limits::{MAX_SLOTS, MAX_TURNS},
    slot::{Slot, SlotState},
};
use steer_user::{
    cli::report::{self, Seen},
    state::{
        lock,
        snapshot::{GroupSnapshot, Snapshot},
        table::{Use, arrange},
    },
    steering::{
        plan::{Step, Wanted, plan},
        watch::event_in,
    },
    survey::{
        members::{read_members, records},
        port::Port,
        proc::holders::{Holder, OpenFiles},
    },
    sys::sockdiag::Listener,
};

pub(crate) fn check(input: &[u8]) {
    members(input);
    open_files(input);
    let _event = event_in(input);
    let mut rest = input;
    let config: GroupConfig = take(&mut rest);
    let counters: GroupCounters = take(&mut rest);
    let mut slots: Vec<(Slot, Counters)> = Vec::new();
    while !rest.is_empty() && slots.len() < MAX_SLOTS as usize {
        slots.push((take(&mut rest), take(&mut rest)));
    }
    status(config, counters, &learned(input), &slots);
    let table: Vec<Slot> = slots.iter().map(|(slot, _)| *slot).collect();
    turns(config, &table);
    steps(&table, &slots);
}

/// The next value; what is missing is zero.
fn take<T: Pod>(rest: &mut &[u8]) -> T {
    let length = rest.len().min(size_of::<T>());
    let (bytes, after) = rest.split_at(length);
    *rest = after;
    let mut value = T::zeroed();
    bytemuck::bytes_of_mut(&mut value)[..length].copy_from_slice(bytes);
    value
}

/// The input over and over.
fn learned(input: &[u8]) -> Learned {
    let mut learned = Learned::NOTHING;
    let bytes = bytemuck::bytes_of_mut(&mut learned).iter_mut();
    for (to, from) in bytes.zip(input.iter().cycle()) {
        *to = *from;
    }
    learned
}

/// The records of the iterator are the same in whatever pieces they come.
fn members(input: &[u8]) {
    struct Pieces<'a>(&'a [u8], usize);
    impl io::Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (piece, rest) = self.0.split_at(length);
            buffer[..length].copy_from_slice(piece);
            self.0 = rest;
            Ok(length)
        }
    }
    let whole = read_members(input).expect("bytes can be read");
    assert!(whole.len() <= input.len() / size_of::<Member>());
    assert!(whole.iter().all(|member| member.sock != 0));
    for piece in [1, 7, size_of::<Member>() + 1] {
        let pieces = read_members(Pieces(input, piece)).expect("bytes can be read");
        assert_eq!(pieces, whole, "in pieces of {piece}");
    }
}

fn open_files(input: &[u8]) {
    let list = records::<OpenFile>(input, |_| false).expect("bytes can be read");
    assert_eq!(list.len(), input.len() / size_of::<OpenFile>());
    let files = OpenFiles::new(&list);
    let sockets = list
        .iter()
        .filter(|file| file.kind == FileKind::Socket as u32);
    for file in sockets {
        assert!(files.sockets(file.pid).any(|inode| inode == file.inode));
    }
}

fn status(
    config: GroupConfig,
    counters: GroupCounters,
    learned: &Learned,
    slots: &[(Slot, Counters)],
) {
    let in_use = (0..)
        .zip(slots)
        .filter(|(_, (slot, _))| slot.state != SlotState::Free as u32);
    let excluded = in_use
        .clone()
        .map(|(_, (slot, _))| slot.cookie.rotate_left(1));
    let group = GroupSnapshot {
        config,
        counters,
        learned: *learned,
        slots: in_use
            .clone()
            .map(|(index, (slot, counters))| (index, *slot, *counters))
            .collect(),
        excluded: excluded.collect(),
    };
    let snapshot = Snapshot {
        port: Port {
            netns_cookie: config.key.netns_cookie,
            port: config.key.port as u16,
        },
        loader: lock::Holder::Nobody,
        groups: vec![group],
    };
    // Every other listener is still there.
    let listeners = in_use.step_by(2).map(|(index, (slot, _))| {
        let listener = Listener {
            cookie: slot.cookie,
            inode: slot.sock,
            uid: config.key.uid,
            local: steer_user::survey::address::local(&config.key),
            v6only: false,
            device: 0,
            accept_queue: index,
            backlog: slot.weight,
            mptcp: false,
        };
        (config.key, listener)
    });
    let seen = Seen {
        listeners: listeners.collect(),
        programs: Some(vec![config.program_id ^ 1]),
        unsteered: BTreeMap::new(),
    };
    for seen in [None, Some(&seen)] {
        let status = report::status(std::slice::from_ref(&snapshot), |_| seen);
        let document = serde_json::to_string(&status).expect("a document");
        let _read: serde_json::Value = serde_json::from_str(&document).expect("JSON");
        let table = report::table(&status);
        let printable = |character: char| character == '\n' || !character.is_control();
        assert!(table.chars().all(printable), "{table:?}");
        for group in status.attachments.iter().flat_map(|one| &one.groups) {
            let shares = group.workers.iter().map(|worker| worker.share);
            assert!(
                shares.clone().all(|share| (0.0..=1.0).contains(&share)),
                "{document}"
            );
            assert!(shares.sum::<f64>() < 1.000_001, "{document}");
        }
    }
}

/// Whatever the slots say, turns go to ready ones, and the sets hold live ones.
fn turns(mut config: GroupConfig, table: &[Slot]) {
    let former = config.turns_start;
    let turns = arrange(&mut config, table);
    assert!(turns.len() <= MAX_TURNS as usize);
    assert_eq!(turns.len(), config.turns_len as usize);
    assert_ne!(
        config.turns_start, former,
        "the half that is in force stays as it is"
    );
    assert!(config.turns_start == 0 || config.turns_start == MAX_TURNS);
    assert!(turns.iter().all(|slot| contains(&config.ready, *slot)));
    let mut live = table
        .iter()
        .filter(|entry| entry.state == SlotState::Live as u32);
    let known = live.all(|entry| entry.waiters != 0);
    assert_eq!(config.loops_known, u32::from(known));
    for (slot, entry) in (0..MAX_SLOTS).zip(
        table
            .iter()
            .copied()
            .chain(std::iter::repeat(Slot::zeroed())),
    ) {
        let live = entry.state == SlotState::Live as u32;
        assert_eq!(contains(&config.live, slot), live);
        assert!(live || !contains(&config.ready, slot) && !contains(&config.standby, slot));
        assert!(!live || slot <= config.slot_mask);
    }
}

/// A plan carried out leaves every wanted listener one slot, and takes none from open connections.
fn steps(table: &[Slot], slots: &[(Slot, Counters)]) {
    let usage = |slot: u32| Use {
        active: slots[slot as usize].1.active(),
        closed: slots[slot as usize].1.gone == slots[slot as usize].0.generation,
    };
    let mut cookies = BTreeSet::new();
    let wanted: Vec<Wanted> = table
        .iter()
        .enumerate()
        .filter(|(index, _)| index % 3 != 1)
        .map(|(index, entry)| {
            if index % 3 == 0 {
                entry.cookie
            } else {
                !entry.cookie
            }
        })
        .filter(|cookie| cookies.insert(*cookie))
        .map(|cookie| Wanted {
            cookie,
            sock: cookie,
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
        })
        .collect();
    let live = |entry: &Slot| entry.state == SlotState::Live as u32;
    let mut after: Vec<Option<u64>> = table
        .iter()
        .map(|entry| live(entry).then_some(entry.cookie))
        .collect();
    after.resize(MAX_SLOTS as usize, None);
    let mut surplus = 0;
    for step in plan(table, usage, &wanted) {
        match step {
            Step::Leave { slot } => after[slot as usize] = None,
            Step::Refresh { slot, worker } => assert_eq!(after[slot as usize], Some(worker.cookie)),
            Step::Return { slot, worker } => {
                assert_eq!(after[slot as usize], None, "slot {slot} is given away");
                assert_eq!(table[slot as usize].cookie, worker.cookie);
                after[slot as usize] = Some(worker.cookie);
            }
            Step::Join { slot, worker } => {
                assert_eq!(after[slot as usize], None, "slot {slot} is given away");
                let open = slots
                    .get(slot as usize)
                    .map_or(0, |(_, counters)| counters.active());
                assert_eq!(open, 0, "slot {slot} has open connections");
                after[slot as usize] = Some(worker.cookie);
            }
            Step::Surplus { .. } => surplus += 1,
        }
    }
    let mut steered: Vec<u64> = after.into_iter().flatten().collect();
    steered.sort_unstable();
    let all = steered.len();
    steered.dedup();
    assert_eq!(all, steered.len(), "a listener has two slots");
    assert_eq!(all + surplus, wanted.len());
}
