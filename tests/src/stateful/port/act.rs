//! What is done to the workers.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::Port;
use crate::{
    stateful::{
        model::{Listener, Model, State, Steered, Unit},
        random::Random,
        share,
        step::Act,
        words::{Order, PAUSED, RETIRED, SERVING},
    },
    steer::steer,
};

/// The longest time for which old and new processes poll the same listeners, in milliseconds.
const OVERLAP_MS: usize = 300;

/// The longest time for which nobody polls a listener whose process was killed.
const UNPOLLED_MS: usize = 100;

impl Port {
    /// Takes a step and tells the model.
    ///
    /// # Errors
    /// When that fails.
    pub fn act(&mut self, act: Act, random: &mut Random) -> anyhow::Result<()> {
        self.place.enter()?;
        match act {
            Act::Join(kind) => {
                let listeners = self.crew.start(kind)?;
                self.model.join(Unit::new(kind, listeners));
            }
            Act::Retire(place) => {
                let listeners = self.model.units[place].listeners.len();
                self.crew.running[place].tell(Order::Retire, RETIRED, listeners)?;
                self.crew.closings += listeners;
                self.model.units[place].state = State::Retired;
            }
            Act::End(place) => self.leave(place, None)?,
            Act::Kill(place) => self.leave(place, Some(Signal::KILL))?,
            Act::Evict(place) => {
                self.crew.running[place].signal(Signal::STOP)?;
                let pid = self.model.units[place].listeners[0].named;
                self.command(&["evict", "--pid", &pid.to_string(), "--yes"])?;
                self.leave(place, Some(Signal::KILL))?;
            }
            Act::Replace(place, which) => {
                let listener = self.model.units[place].listeners[which];
                let running = &mut self.crew.running[place];
                running.kill(listener.pid)?;
                thread::sleep(Duration::from_millis(random.below(UNPOLLED_MS) as u64));
                running.tell(Order::Replace, SERVING, 1)?;
                self.held.retain(|held| held.mark != listener.mark);
                self.succeeded(place)?;
            }
            Act::Freeze(place) => {
                self.crew.running[place].signal(Signal::STOP)?;
                self.model.units[place].state = State::Frozen;
            }
            Act::Thaw(place) => {
                self.crew.running[place].signal(Signal::CONT)?;
                self.model.units[place].state = State::Serves;
            }
            Act::Reload(place) => {
                let listeners = self.model.units[place].listeners.len();
                self.crew.running[place].tell(Order::Fork, SERVING, listeners)?;
                // Whoever polls it, each listener has its share meanwhile.
                let held = share::all_are_served(self.number, &self.model, random, &self.probes)
                    .context("while old and new processes poll the same listeners")?;
                drop(held);
                thread::sleep(Duration::from_millis(random.below(OVERLAP_MS) as u64));
                self.crew.running[place].tell(Order::Relieve, RETIRED, listeners)?;
                self.succeeded(place)?;
            }
            Act::Pause(place) => {
                let listeners = self.model.units[place].listeners.len();
                self.crew.running[place].tell(Order::Pause, PAUSED, listeners)?;
                self.crew.closings += listeners;
                self.model.pause(place);
            }
            Act::Again(place) => {
                let listeners = self.model.units[place].listeners.len();
                self.crew.running[place].tell(Order::Again, SERVING, listeners)?;
                self.model.listen(place);
            }
            Act::Policy(policy) => {
                self.command(&["policy", policy.name()])?;
                self.model.steered = self.model.steered.under(policy);
            }
            Act::Weight(pid, weight) => {
                let pid = self.name_by_now(pid)?;
                self.command(&["weight", "--pid", &pid.to_string(), &weight.to_string()])?;
                self.model.change(pid, |rules| rules.weight = weight);
            }
            Act::Drain(pid) => {
                let pid = self.name_by_now(pid)?;
                self.command(&["drain", "--pid", &pid.to_string()])?;
                self.model.change(pid, |rules| rules.draining = true);
            }
            Act::Undrain(pid) => {
                let pid = self.name_by_now(pid)?;
                self.command(&["undrain", "--pid", &pid.to_string()])?;
                self.model.change(pid, |rules| rules.draining = false);
            }
            Act::HalfOpen(count) => {
                for _ in 0..count {
                    share::half_open(&self.probes, share::stranger(random), self.number, random)?;
                }
            }
        }
        Ok(())
    }

    /// The process that steer names by now for a listener for which it named this one: who served it before
    /// may have ended meanwhile.
    fn name_by_now(&mut self, pid: u32) -> anyhow::Result<u32> {
        let listener = |model: &Model, fits: &dyn Fn(&Listener) -> bool| {
            let found = model.listening().find(|(_, listener)| fits(listener));
            found.map(|(_, listener)| *listener).context("no listener")
        };
        let cookie = listener(&self.model, &|listener| listener.named == pid)?.cookie;
        self.check_maps()?;
        Ok(listener(&self.model, &|listener| listener.cookie == cookie)?.named)
    }

    fn leave(&mut self, place: usize, signal: Option<Signal>) -> anyhow::Result<()> {
        self.crew.end(place, signal)?;
        let unit = self.model.units.remove(place);
        self.crew.closings += unit.listeners.len();
        self.let_go(&unit);
        Ok(())
    }

    /// Other processes serve a unit's listeners by now.
    fn succeeded(&mut self, place: usize) -> anyhow::Result<()> {
        let serving = self.crew.running[place].serving();
        let unit = &mut self.model.units[place];
        for listener in &mut unit.listeners {
            let pid = *serving.get(&listener.mark).context("nobody serves")?;
            if pid != listener.pid {
                unit.former.push(listener.pid);
            }
            listener.pid = pid;
            listener.named = pid;
        }
        Ok(())
    }

    /// Runs a command about this port.
    pub(super) fn command(&self, args: &[&str]) -> anyhow::Result<()> {
        let [name, rest @ ..] = args else {
            return Ok(());
        };
        let port = self.number.to_string();
        let args = [&[*name, "--port", &port], rest].concat();
        let finished = steer(&args)?;
        ensure!(finished.code == Some(0), "steer {args:?}: {finished:?}");
        ensure!(self.model.steered != Steered::No);
        Ok(())
    }
}
