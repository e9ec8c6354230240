//! The policies compiled for the kernel and for the host choose alike.
//!
//! The kernel's verifier shapes how the policies are written and compiled: loops in parts, functions
//! of their own, a target of other instructions. Whatever the tests on the host
//! and the simulator show is true of the kernel only if none of that changes a choice.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env,
    path::PathBuf,
};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use proptest::{
    collection::{btree_set, vec},
    prelude::*,
    test_runner::{Config, RngSeed, TestError, TestRunner},
};
use steer_common::{
    limits::{MAX_SLOTS, MAX_WEIGHT},
    policy::{Policy, Selection},
    view::Loop,
};
use steer_tests::{isolate::isolate, patience::is_slow};
use steer_views::{Group, Member, NOT_RUN, State, Written, event_loop, raw_selection};
use xtask::ebpf::Object;

/// Random views; each is put to every policy.
const VIEWS: u32 = 5_000;

/// The same where the processor is emulated.
const VIEWS_IF_SLOW: u32 = 1_000;

fn views() -> u32 {
    if is_slow() { VIEWS_IF_SLOW } else { VIEWS }
}

/// Of the random numbers that make them.
const SEED: u64 = 0x5eed;

/// Names the kernel object where it isn't in this clone.
const OBJECT: &str = "STEER_POLICIES_OBJECT";

#[test]
#[ignore = "privileged"]
fn kernel_and_host_choose_alike() -> anyhow::Result<()> {
    isolate()?;
    let kernel = RefCell::new(Kernel::load()?);
    let tally = RefCell::new(Tally::default());
    let mut runner = TestRunner::new(Config {
        cases: views(),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(SEED),
        ..Config::default()
    });
    let result = runner.run(&case(), |case| {
        case.compare(&mut kernel.borrow_mut(), &mut tally.borrow_mut())
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    result.map_err(|error| match error {
        TestError::Fail(reason, case) => {
            anyhow!("seed {SEED:#x}: {reason}\nthe smallest such view: {case:#?}")
        }
        TestError::Abort(reason) => anyhow!("seed {SEED:#x}: {reason}"),
    })?;
    tally.into_inner().check()
}

/// What the selections ended with. It would show nothing if the views were all alike.
#[derive(Debug, Default)]
struct Tally {
    /// By policy and by how it ended.
    endings: BTreeMap<(&'static str, &'static str), u32>,
    /// Slots that a policy has chosen.
    slots: BTreeSet<(&'static str, u32)>,
}

impl Tally {
    fn add(&mut self, policy: Policy, selection: Selection) {
        let ending = match selection {
            Selection::Slot(slot) => {
                self.slots.insert((policy.name(), slot));
                "slot"
            }
            Selection::NoWorker => "no worker",
            Selection::Refused => "refused",
        };
        *self.endings.entry((policy.name(), ending)).or_default() += 1;
    }

    fn check(&self) -> anyhow::Result<()> {
        // Of 256, as far as there are views enough.
        let many = if is_slow() { 100 } else { 200 };
        let endings = &self.endings;
        for policy in Policy::ALL.map(Policy::name) {
            let count = |ending| endings.get(&(policy, ending)).copied().unwrap_or_default();
            let counts = ["slot", "no worker", "refused"].map(count);
            ensure!(counts.iter().sum::<u32>() >= views(), "{endings:?}");
            ensure!(
                counts.iter().all(|count| *count > views() / 20),
                "{endings:?}"
            );
            let slots = self.slots.iter().filter(|(by, _)| *by == policy).count();
            ensure!(slots > many, "{policy} chose only {slots} slots");
        }
        Ok(())
    }
}

/// A group, and what is asked of it.
#[derive(Clone, Debug)]
struct Case {
    members: Vec<Member>,
    /// Which can't be selected any more since the turns were laid out.
    gone: BTreeSet<u32>,
    /// Which aren't accepted.
    refused: BTreeSet<u32>,
    cursor: u64,
    random: u32,
    flow: u32,
    client: u32,
    mean: u64,
}

impl Case {
    /// Selects by each policy, on the host and in the kernel.
    fn compare(&self, kernel: &mut Kernel, tally: &mut Tally) -> anyhow::Result<()> {
        let refuses = |slot| self.refused.contains(&slot);
        let before = self.group();
        for policy in Policy::ALL {
            let group = before.clone();
            let selection = policy.select(&group, |slot| !refuses(slot));
            let host = State {
                selection: raw_selection(selection),
                ..State::of(&group)
            };
            let written = Written::new(&before, policy, refuses);
            let in_kernel = kernel.run(&written, State::of(&before))?;
            ensure!(
                in_kernel == host,
                "{} differs: {in_kernel:?} in the kernel, {host:?} on the host",
                policy.name()
            );
            tally.add(policy, selection);
        }
        Ok(())
    }

    fn group(&self) -> Group {
        let mut group = Group::new(self.members.clone());
        for slot in &self.gone {
            if let Some(member) = group.members.get_mut(*slot as usize) {
                member.eligible = false;
            }
        }
        group.cursor.set(self.cursor);
        group.random.set(self.random);
        group.flow = self.flow;
        group.client = self.client;
        group.mean = self.mean;
        group
    }
}

fn case() -> impl Strategy<Value = Case> {
    (
        members(),
        some_slots(),
        some_slots(),
        any::<(u64, u32, u32, u32)>(),
        prop_oneof![1_u64..1 << 30, 1..u64::MAX],
    )
        .prop_map(|(members, gone, refused, numbers, mean)| {
            let (cursor, random, flow, client) = numbers;
            Case {
                members,
                gone,
                refused,
                cursor,
                random,
                flow,
                client,
                mean,
            }
        })
}

/// Any workers, half of the time only a few, and often so alike that their slots decide.
fn members() -> impl Strategy<Value = Vec<Member>> {
    let count = prop_oneof![1_usize..=8, 1..=MAX_SLOTS as usize];
    let heaviest = prop_oneof![Just(1), Just(4), Just(MAX_WEIGHT)];
    let connections = prop_oneof![Just(0_u32), Just(3), Just(1000), Just(u32::MAX)];
    (count, heaviest, connections)
        .prop_flat_map(|(count, heaviest, connections)| vec(member(heaviest, connections), count))
}

prop_compose! {
    fn member(heaviest: u32, connections: u32)(
        eligible in prop::bool::weighted(0.8),
        weight in 1..=heaviest,
        active in 0..=connections,
        handshakes in prop_oneof![Just(0), 0_u32..4, 0..=connections],
        fresh in prop_oneof![Just(0), 0_u32..4, 0..=connections],
        ready in 0_u32..20,
        event_loop in prop_oneof![
            3 => event_loop(),
            1 => Just(Loop::Unknown),
            1 => any::<u64>().prop_map(Loop::Busy),
        ],
    ) -> Member {
        Member { eligible, weight, active, handshakes, fresh, ready, event_loop }
    }
}

/// None, a few, many or all.
fn some_slots() -> impl Strategy<Value = BTreeSet<u32>> {
    prop_oneof![
        2 => Just(BTreeSet::new()),
        2 => btree_set(0..MAX_SLOTS, 1..128),
        1 => btree_set(0..8_u32, 1..8),
        1 => Just((0..MAX_SLOTS).collect()),
    ]
}

/// The program that runs the policies in the kernel. Unloaded when dropped.
struct Kernel {
    ebpf: Ebpf,
    written: Array<MapData, [u8; size_of::<Written>()]>,
    state: Array<MapData, [u8; size_of::<State>()]>,
}

impl Kernel {
    fn load() -> anyhow::Result<Self> {
        let file = env::var_os(OBJECT).map_or_else(|| Object::Policies.file(), PathBuf::from);
        let mut ebpf = Ebpf::load_file(&file).with_context(|| {
            format!(
                "failed to load {}: run `cargo xtask build-ebpf` first or set {OBJECT}",
                file.display()
            )
        })?;
        let written = ebpf.take_map("WRITTEN").context("no map WRITTEN")?;
        let state = ebpf.take_map("STATE").context("no map STATE")?;
        let program: &mut SchedClassifier =
            ebpf.program_mut("run").context("no program")?.try_into()?;
        program.load()?;
        Ok(Self {
            written: written.try_into()?,
            state: state.try_into()?,
            ebpf,
        })
    }

    /// Selects once.
    fn run(&mut self, written: &Written, state: State) -> anyhow::Result<State> {
        let written: &[u8; size_of::<Written>()] = bytemuck::bytes_of(written).try_into()?;
        self.written.set(0, written, 0)?;
        self.state.set(
            0,
            bytemuck::cast::<State, [u8; size_of::<State>()]>(state),
            0,
        )?;
        let program: &SchedClassifier =
            self.ebpf.program("run").context("no program")?.try_into()?;
        program.test_run(TestRunOptions {
            // The shortest frame that the kernel takes; nothing reads it.
            data_in: Some(&[0; 14]),
            ..TestRunOptions::new()
        })?;
        let state: State = bytemuck::cast(self.state.get(&0, 0)?);
        ensure!(state.selection != NOT_RUN, "the program did not select");
        Ok(state)
    }
}
