//! A host with three ports in two network namespaces, and what is done to them.

use std::{
    fmt::Write as _,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    model::Steered, place::Place, port::Port, random::Random, seen, step::Step, words::Kind,
};
use crate::{
    churn::spread::Spread,
    isolate::leftovers,
    steer::{code, steer},
};

/// How long the clients are quiet before counts are compared.
const QUIET: Duration = Duration::from_millis(50);

/// The longest pause between two steps, in milliseconds.
const PAUSE_MS: usize = 100;

/// Steps that the story of a failure has.
const STORY: usize = 40;

/// The host.
#[derive(Debug)]
pub struct Host {
    ports: Vec<Port>,
    random: Random,
    log: Vec<String>,
    /// From each step's end until the maps equalled the model.
    delays: Spread,
    /// The slowest of them.
    slowest: String,
}

impl Host {
    /// Starts workers and connections to them; nothing is steered yet. One number is a port of both
    /// namespaces.
    ///
    /// # Errors
    /// When they don't start.
    pub fn start(random: Random) -> anyhow::Result<Self> {
        let here = Rc::new(Place::here()?);
        let there = Rc::new(Place::new()?);
        let ports = vec![
            Port::start(&here, 3000, &[Kind::Epoll, Kind::Prefork, Kind::Accept])?,
            Port::start(&here, 3001, &[Kind::Threads, Kind::Pauses])?,
            Port::start(&there, 3000, &[Kind::Accept, Kind::Epoll, Kind::Threads])?,
        ];
        Ok(Self {
            ports,
            random,
            log: Vec::new(),
            delays: Spread::default(),
            slowest: String::new(),
        })
    }

    /// Takes random steps for so long, and checks after each that all is as it must be.
    ///
    /// # Errors
    /// When it isn't, or a step fails.
    pub fn run(&mut self, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let models: Vec<_> = self.ports.iter().map(|port| port.model.clone()).collect();
            let step = Step::random(&models, &mut self.random);
            self.step(&step)?;
            let pause = self.random.below(PAUSE_MS) as u64;
            thread::sleep(Duration::from_millis(pause));
        }
        Ok(())
    }

    /// Ends as it began, and checks that nothing is left.
    ///
    /// # Errors
    /// When something is, or a connection was lost without its worker.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        for port in &mut self.ports {
            let name = port.name();
            port.finish(&mut self.random).context(name)?;
        }
        nothing_is_left()?;
        self.ports.iter().try_for_each(Port::check_objects)
    }

    /// The last that was done and where it has led, for whoever reads of a failure.
    pub fn story(&mut self) -> String {
        let log = &self.log[self.log.len().saturating_sub(STORY)..];
        let mut story = log.join("\n");
        for port in &mut self.ports {
            let (name, said) = (port.name(), port.said());
            let _ = write!(
                story,
                "\n{name}: {:?}\n{}its loader said:\n{said}",
                port.model,
                seen::slots(port.key())
            );
        }
        story
    }

    /// What came of it, in a few lines.
    pub fn report(&self, seconds: u64, seed: u64) -> String {
        let ports: String = self.ports.iter().map(Port::report).collect();
        format!(
            "{} steps in {seconds} s, seed {seed}; the maps equalled the model after {}, the slowest at {}\n{ports}",
            self.log.len(),
            self.delays,
            self.slowest
        )
    }

    /// Takes a step and checks what must come of it.
    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let number = self.log.len();
        self.log.push(format!("{number}: {step:?}"));
        self.take(step).with_context(|| format!("{step:?}"))?;
        let since = Instant::now();
        let touched = step.ports();
        for (place, port) in self.ports.iter_mut().enumerate() {
            port.check_maps().with_context(|| port_after(port, step))?;
            if touched.contains(&place) {
                port.check_status()
                    .with_context(|| port_after(port, step))?;
            }
        }
        let delay = since.elapsed();
        if delay > self.delays.max() {
            self.slowest = format!("step {number}, {step:?}");
        }
        self.delays.add(delay);
        self.ports.iter().for_each(|port| port.quiet(true));
        thread::sleep(QUIET);
        for port in &mut self.ports {
            port.check_active()
                .with_context(|| port_after(port, step))?;
        }
        for place in touched {
            let port = &mut self.ports[place];
            port.check_shares(&mut self.random)
                .with_context(|| port_after(port, step))?;
        }
        self.ports.iter().for_each(|port| port.quiet(false));
        if self
            .ports
            .iter()
            .all(|port| port.model.steered == Steered::No)
        {
            nothing_is_left()?;
        }
        for port in &mut self.ports {
            port.weigh().with_context(|| port_after(port, step))?;
        }
        Ok(())
    }

    fn take(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Crew(port, act) => self.ports[*port].act(*act, &mut self.random),
            Step::Loaders(leads) => {
                let mut begun = Vec::new();
                for (port, lead) in leads {
                    begun.push((*port, self.ports[*port].begin(*lead)?));
                }
                begun.sort_by_key(|(_, begun)| begun.due());
                for (port, begun) in begun {
                    let port = &mut self.ports[port];
                    port.complete(begun).with_context(|| port.name())?;
                }
                Ok(())
            }
        }
    }
}

fn nothing_is_left() -> anyhow::Result<()> {
    let files = leftovers()?;
    ensure!(files.is_empty(), "left behind: {files:?}");
    let status = steer(["status", "--port", "3000"])?;
    ensure!(status.code == Some(code::NOTHING), "{status:?}");
    Ok(())
}

fn port_after(port: &Port, step: &Step) -> String {
    format!("{} after {step:?}", port.name())
}
