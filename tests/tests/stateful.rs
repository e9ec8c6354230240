//! Everything that can be done to a steered port, at random and under load, beside a model: the maps
//! follow each step, nothing is lost but with its worker, and nothing is left behind.
//!
//! `STEER_STATEFUL_SECONDS` is for how long it goes, `STEER_STATEFUL_SEED` repeats the steps of a
//! run that failed.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    io::{self, Write as _},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use steer_tests::{
    PORT,
    churn::{
        crew::{Change, Crew, How},
        ends::Ends,
        load::{Attempt, Load},
        now,
        spread::Spread,
    },
    isolate::{isolate, leftovers},
    process::eventually,
    stateful::{
        loader::Footprint,
        model::{Model, Steered},
        objects::{self, Object},
        random::Random,
        seen,
        step::Step,
    },
    steer::{Attach, code, status, steer},
    trial::migrates_for,
    workers::local,
};

/// Workers at the beginning and at the end.
const CREW: usize = 4;

/// Connections a second.
const RATE: u32 = 150;

/// How soon the maps should equal the model after a step.
const FOLLOW: Duration = Duration::from_millis(50);

/// How soon they must, on a machine that may be busy with other things as well.
const FOLLOW_AT_LAST: Duration = Duration::from_millis(500);

/// How long to look whether they do at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest pause between two steps, in milliseconds.
const PAUSE_MS: usize = 150;

/// How long the first loader has until its descriptors are counted.
const CALM: Duration = Duration::from_millis(500);

/// How much a loader's memory may grow after its first step, in KiB: its allocator's arenas.
const GROWTH_KIB: u64 = 1024;

/// Workers that leave, of which one may take along a connection that is being established at that
/// very moment: see docs/restarts.md.
const CLOSING_EVERY: usize = 100;

#[test]
#[ignore = "privileged"]
fn the_maps_follow_every_step_and_nothing_is_left() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("the_maps_follow_every_step_and_nothing_is_left")? {
        return Ok(());
    }
    let seconds = number("STEER_STATEFUL_SECONDS")?.unwrap_or(10);
    let clock = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_micros() as u64)
    };
    let seed = number("STEER_STATEFUL_SEED")?.unwrap_or_else(clock);
    let mut port = Port::start()?;
    let result = port.run(Duration::from_secs(seconds), &mut Random::new(seed));
    let result = result.and_then(|()| port.finish());
    result.with_context(|| {
        let (log, model) = (port.log.join("\n"), &port.model);
        format!("with STEER_STATEFUL_SEED={seed}, after these steps:\n{log}\n{model:?}\n")
    })?;
    say(&port.report(seconds, seed)?)
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let number = env::var(variable).ok().map(|text| text.parse());
    number
        .transpose()
        .with_context(|| format!("{variable} is no number"))
}

/// Past libtest's capture: the numbers are what the test is for.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(io::stderr().write_all(text.as_bytes())?)
}

/// A port, what is done to it, and what was seen of it.
struct Port {
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
    fn start() -> anyhow::Result<Self> {
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

    fn run(&mut self, duration: Duration, random: &mut Random) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let step = Step::random(&self.model, random);
            self.step(step)?;
            thread::sleep(Duration::from_millis(random.below(PAUSE_MS) as u64));
            self.weigh()?;
        }
        Ok(())
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

    /// Takes a step; tells when what it changes was changed at the earliest.
    fn take(&mut self, step: Step) -> anyhow::Result<Duration> {
        match step {
            Step::Join => {
                self.crew.change(Change {
                    join: 1,
                    ..Change::default()
                })?;
                let joined = self.crew.joined.last().context("nobody joined")?;
                self.model.join(joined.pid);
                return Ok(joined.listened);
            }
            Step::Stop(place) => return self.leave(place, Signal::TERM),
            Step::Kill(place) => return self.leave(place, Signal::KILL),
            Step::Pause(place) => {
                self.crew.members[place].signal(Signal::STOP)?;
                self.model.workers[place].paused = true;
            }
            Step::Resume(place) => {
                self.crew.members[place].signal(Signal::CONT)?;
                self.model.workers[place].paused = false;
            }
            Step::Evict(place) => {
                self.crew.members[place].signal(Signal::STOP)?;
                self.worker_command(place, "evict", &["--yes"])?;
                return self.leave(place, Signal::KILL);
            }
            Step::Policy(policy) => {
                command(&["policy", "--port", &PORT.to_string(), policy.name()])?;
                self.model.steered = self.model.steered.under(policy);
            }
            Step::Weight(place, weight) => {
                self.worker_command(place, "weight", &[&weight.to_string()])?;
                self.model.workers[place].rules.weight = weight;
            }
            Step::Drain(place) => {
                self.worker_command(place, "drain", &[])?;
                self.model.workers[place].rules.draining = true;
            }
            Step::Undrain(place) => {
                self.worker_command(place, "undrain", &[])?;
                self.model.workers[place].rules.draining = false;
            }
            Step::Reload => {
                let loader = self.loader.as_mut().context("no loader")?;
                loader.signal(Signal::HUP)?;
                loader.wait_line("steering ")?;
                self.first = None;
            }
            Step::KillLoader => {
                let mut loader = self.loader.take().context("no loader")?;
                loader.end(Signal::KILL)?;
                if let Some(policy) = self.model.steered.policy() {
                    self.model.steered = Steered::Alone(policy);
                }
            }
            Step::Attach(policy) => {
                self.loader = Some(Attach::start(PORT, policy.name(), &[])?);
                self.loaders += 1;
                self.first = None;
                self.model.attach(policy);
                if let Some((_, to @ None)) = self.unsteered.last_mut() {
                    *to = Some(now());
                }
            }
            Step::Detach => {
                self.unsteered.push((now(), None));
                self.loader.take().context("no loader")?.detach()?;
                self.model.detach();
            }
            Step::DetachFromOutside => {
                self.unsteered.push((now(), None));
                command(&["detach", "--port", &PORT.to_string()])?;
                if let Some(mut loader) = self.loader.take() {
                    loader.wait()?;
                }
                self.model.detach();
            }
        }
        Ok(now())
    }

    fn leave(&mut self, place: usize, signal: Signal) -> anyhow::Result<Duration> {
        let left = self.crew.leave(place, signal)?;
        self.model.workers.remove(place);
        Ok(match left.how {
            How::Stopped { drained, .. } => drained,
            How::Killed => left.signalled,
        })
    }

    fn worker_command(&self, place: usize, name: &str, more: &[&str]) -> anyhow::Result<()> {
        let (port, pid) = (PORT.to_string(), self.model.workers[place].pid.to_string());
        command(&[&[name, "--port", &port, "--pid", &pid], more].concat())
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

    /// Ends as it began, and checks that nothing is left.
    fn finish(&mut self) -> anyhow::Result<()> {
        let paused = self.model.workers.iter().position(|worker| worker.paused);
        if let Some(place) = paused {
            self.step(Step::Resume(place))?;
        }
        let load = self.load.take().context("no load")?;
        let run = load.finish()?;
        if self.model.steered != Steered::No {
            self.step(Step::DetachFromOutside)?;
        }
        ensure!(self.loader.is_none());
        let mut left = BTreeSet::new();
        let all_gone = eventually(PATIENCE, || {
            left.clone_from(&self.objects);
            left.retain(|object| object.exists());
            left.is_empty()
        });
        ensure!(all_gone, "the kernel still has {left:?}");

        self.ends = Ends::new(&run, std::mem::take(&mut self.crew.claims));
        let Ends { waiting, .. } = &mut self.ends;
        let unsteered = std::mem::take(&mut self.unsteered);
        let before = waiting.len();
        waiting.retain(|attempt| !overlaps(attempt, &unsteered));
        self.excused = before - waiting.len();
        let ends = &self.ends;
        ensure!(
            ends.sent == ends.served + ends.lost() + self.excused && ends.broken.is_empty(),
            "{ends:?}"
        );
        ensure!(ends.waiting.is_empty() && ends.unfinished == 0, "{ends:?}");
        ensure!(ends.refused == 0 && ends.hung == 0, "{ends:?}");
        ensure!(
            ends.closing <= 1 + self.crew.left.len() / CLOSING_EVERY,
            "{ends:?}"
        );
        ensure!(
            self.delays.percentile(50) <= FOLLOW && self.delays.max() <= FOLLOW_AT_LAST,
            "the maps follow only after {}: {}",
            self.delays,
            self.slowest
        );
        ensure!(
            self.growth <= GROWTH_KIB,
            "memory grew by {} KiB",
            self.growth
        );
        Ok(())
    }

    fn report(&self, seconds: u64, seed: u64) -> anyhow::Result<String> {
        let mut text = String::new();
        let ends = &self.ends;
        writeln!(
            text,
            "{} steps in {seconds} s, seed {seed}; {} workers joined, {} left, {} loaders",
            self.log.len(),
            self.crew.joined.len(),
            self.crew.left.len(),
            self.loaders
        )?;
        writeln!(text, "maps equal the model after {}", self.delays)?;
        writeln!(
            text,
            "{} of them after more than {FOLLOW:?}; the slowest was {}",
            self.delays.over(FOLLOW),
            self.slowest
        )?;
        writeln!(
            text,
            "{} connections: {} served, {} lost with a killed worker that had accepted them, {} while \
             unsteered, {} being established with a listener that closed",
            ends.sent, ends.served, ends.accepted, self.excused, ends.closing
        )?;
        writeln!(
            text,
            "{} programs, maps and links were made, none is left; each loader had {} descriptors \
             and one for each worker, and grew by {} KiB at most",
            self.objects.len(),
            self.descriptors.unwrap_or_default(),
            self.growth
        )?;
        Ok(text)
    }
}

fn overlaps(attempt: &Attempt, unsteered: &[(Duration, Option<Duration>)]) -> bool {
    unsteered
        .iter()
        .any(|(from, to)| attempt.ended >= *from && to.is_none_or(|to| attempt.opened <= to))
}

fn command(args: &[&str]) -> anyhow::Result<()> {
    let finished = steer(args)?;
    ensure!(finished.code == Some(0), "steer {args:?}: {finished:?}");
    Ok(())
}
