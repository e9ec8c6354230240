//! A port, what is done to it, and what was seen of it.

mod take;
mod verdict;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    loader::Footprint,
    model::{Model, Steered},
    objects::{self, Object},
    random::Random,
    seen,
    step::Step,
};
use crate::{
    PORT,
    churn::{crew::Crew, ends::Ends, load::Load, now, spread::Spread},
    isolate::leftovers,
    process::eventually,
    steer::{Attach, code, status, steer},
    workers::local,
};

/// Workers at the beginning.
const CREW: usize = 4;

/// Connections a second.
const RATE: u32 = 150;

/// How long to look whether the maps follow at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest pause between two steps, in milliseconds.
const PAUSE_MS: usize = 150;

/// How long the first loader has until its descriptors are counted.
const CALM: Duration = Duration::from_millis(500);

/// A port, what is done to it, and what was seen of it.
#[derive(Debug)]
pub struct Port {
    model: Model,
    crew: Crew,
    loader: Option<Attach>,
    load: Option<Load>,
    log: Vec<String>,
    /// From each step until the maps equalled the model.
    delays: Spread,
    /// The slowest of them.
    slowest: String,
    /// When steer steered nothing.
    unsteered: Vec<(Duration, Option<Duration>)>,
    /// Every object of the kernel that was steer's.
    objects: BTreeSet<Object>,
    /// Of the loader that runs, after its first step.
    first: Option<Footprint>,
    /// Descriptors of every loader, less one for each worker.
    descriptors: Option<usize>,
    loaders: usize,
    growth: u64,
    ends: Ends,
    excused: usize,
}

impl Port {
    /// Starts workers and connections to them; nothing is steered yet.
    ///
    /// # Errors
    /// When they don't start.
    pub fn start() -> anyhow::Result<Self> {
        let crew = Crew::start_abrupt(local(PORT), CREW)?;
        let mut model = Model::new();
        for member in &crew.members {
            model.join(member.joined.pid);
        }
        Ok(Self {
            model,
            crew,
            loader: None,
            load: Some(Load::start(local(PORT), RATE)),
            log: Vec::new(),
            delays: Spread::default(),
            slowest: String::new(),
            unsteered: vec![(Duration::ZERO, None)],
            objects: BTreeSet::new(),
            first: None,
            descriptors: None,
            loaders: 0,
            growth: 0,
            ends: Ends::default(),
            excused: 0,
        })
    }

    /// Takes random steps for so long, and checks after each that the maps follow.
    ///
    /// # Errors
    /// When they don't, or a step fails.
    pub fn run(&mut self, duration: Duration, random: &mut Random) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let step = Step::random(&self.model, random);
            self.step(step)?;
            thread::sleep(Duration::from_millis(random.below(PAUSE_MS) as u64));
            self.weigh()?;
        }
        Ok(())
    }

    /// What was done and where that has led, for whoever reads of a failure.
    pub fn story(&self) -> String {
        format!("{}\n{:?}", self.log.join("\n"), self.model)
    }

    /// Takes a step and waits until the maps have followed.
    fn step(&mut self, step: Step) -> anyhow::Result<()> {
        let number = self.log.len();
        self.log.push(format!("{number}: {step:?}"));
        let since = self.take(step).with_context(|| format!("{step:?}"))?;
        if self.model.steered == Steered::No {
            let files = leftovers()?;
            ensure!(files.is_empty(), "{step:?} left behind {files:?}");
            let status = steer(["status", "--port", &PORT.to_string()])?;
            ensure!(status.code == Some(code::NOTHING), "{status:?}");
            return Ok(());
        }
        let mut differs = seen::check(PORT, &self.model);
        let follows = eventually(PATIENCE, || {
            if differs.is_ok() {
                return true;
            }
            differs = seen::check(PORT, &self.model);
            false
        });
        let delay = now().saturating_sub(since);
        differs.with_context(|| format!("after {step:?}"))?;
        ensure!(follows);
        if delay > self.delays.max() {
            self.slowest = format!("step {number}, {step:?}");
        }
        self.delays.add(delay);
        let status = status(PORT)?;
        let policy = self.model.steered.policy();
        ensure!(
            policy.is_some_and(|policy| policy.name() == status.policy),
            "{policy:?}, but {status:?}"
        );
        let loader = self.loader.as_ref().map(Attach::pid);
        ensure!(status.loader_pid == loader, "{loader:?}, but {status:?}");
        Ok(())
    }

    /// Looks at what the loader has open: always the same descriptors, and one for each worker.
    fn weigh(&mut self) -> anyhow::Result<()> {
        self.objects.extend(objects::pinned()?);
        let Some(loader) = &self.loader else {
            return Ok(());
        };
        let pid = loader.pid();
        self.objects.extend(objects::open_in(pid));
        let workers = self.model.workers.len();
        let descriptors = || Ok::<_, anyhow::Error>(Footprint::of(pid)?.descriptors - workers);
        let Some(wanted) = self.descriptors else {
            thread::sleep(CALM);
            self.descriptors = Some(descriptors()?);
            return Ok(());
        };
        // It opens more for moments, while it looks at processes.
        let mut seen = descriptors()?;
        let settles = eventually(PATIENCE, || {
            seen = descriptors().unwrap_or(seen);
            seen == wanted
        });
        ensure!(
            settles,
            "the loader has {seen} descriptors and {workers} for its workers, not {wanted}"
        );
        let footprint = Footprint::of(pid)?;
        let first = self.first.get_or_insert(footprint);
        self.growth = self.growth.max(footprint.data.saturating_sub(first.data));
        Ok(())
    }
}
