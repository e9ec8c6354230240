//! Takes the steps.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::Port;
use crate::{
    PORT,
    churn::{
        crew::{Change, How},
        now,
    },
    stateful::{model::Steered, step::Step},
    steer::{Attach, steer},
    texts,
};

impl Port {
    /// Takes a step; tells when what it changes was changed at the earliest.
    pub(super) fn take(&mut self, step: Step) -> anyhow::Result<Duration> {
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
                loader.wait_line(texts::attach::STEERING)?;
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
}

fn command(args: &[&str]) -> anyhow::Result<()> {
    let finished = steer(args)?;
    ensure!(finished.code == Some(0), "steer {args:?}: {finished:?}");
    Ok(())
}
