//! What is done to the loader: begun for several ports, then waited for.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{PATIENCE, Port};
use crate::{
    churn::now,
    process::{Output, Process},
    stateful::{model::Steered, step::Lead},
    steer::{Attach, binary},
    texts,
};

/// What was begun.
#[derive(Debug)]
pub struct Begun {
    lead: Lead,
    at: Instant,
    /// `steer detach`, where that is it.
    command: Option<Process>,
}

impl Begun {
    /// When it is to be gone on with, for the order of several.
    pub fn due(&self) -> Instant {
        match self.lead {
            Lead::StopInReload(later) => self.at + Duration::from_millis(later),
            Lead::Attach(_) | Lead::Reload | Lead::Kill | Lead::Stop | Lead::Detach => {
                self.at + PATIENCE
            }
        }
    }
}

impl Port {
    /// Begins a step.
    ///
    /// # Errors
    /// When that fails.
    pub fn begin(&mut self, lead: Lead) -> anyhow::Result<Begun> {
        self.place.enter()?;
        let mut command = None;
        match lead {
            Lead::Attach(policy) => {
                self.loader = Some(Attach::spawn(self.number, policy.name(), &[])?);
                self.loaders += 1;
                self.first = None;
            }
            Lead::Reload => self.loader()?.signal(Signal::HUP)?,
            Lead::StopInReload(_) => {
                self.unsteered.push((now(), None));
                self.loader()?.signal(Signal::HUP)?;
            }
            Lead::Kill => self.loader()?.signal(Signal::KILL)?,
            Lead::Stop => {
                self.unsteered.push((now(), None));
                self.loader()?.signal(Signal::TERM)?;
            }
            Lead::Detach => {
                self.unsteered.push((now(), None));
                let mut detach = Command::new(binary()?);
                detach
                    .args(["detach", "--port", &self.number.to_string()])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null());
                command = Some(Process::spawn(detach, Output::Stderr)?);
            }
        }
        Ok(Begun {
            lead,
            at: Instant::now(),
            command,
        })
    }

    /// Waits until what was begun is done, and tells the model.
    ///
    /// # Errors
    /// When it isn't done, or not well.
    pub fn complete(&mut self, begun: Begun) -> anyhow::Result<()> {
        self.place.enter()?;
        match begun.lead {
            Lead::Attach(policy) => {
                self.loader()?.wait_line(texts::attach::STEERING)?;
                self.model.attach(policy);
                if let Some((_, to @ None)) = self.unsteered.last_mut() {
                    *to = Some(now());
                }
            }
            Lead::Reload => {
                self.loader()?.wait_line(texts::attach::STEERING)?;
                self.first = None;
            }
            Lead::Kill => {
                let mut loader = self.loader.take().context("no loader")?;
                loader.wait()?;
                if let Some(policy) = self.model.steered.policy() {
                    self.model.steered = Steered::Alone(policy);
                }
            }
            Lead::StopInReload(_) => {
                thread::sleep(begun.due().saturating_duration_since(Instant::now()));
                self.loader.take().context("no loader")?.detach()?;
                self.model.detach();
            }
            Lead::Stop => {
                let mut loader = self.loader.take().context("no loader")?;
                let status = loader.wait()?;
                ensure!(status.success(), "{status}: {}", loader.said());
                self.model.detach();
            }
            Lead::Detach => {
                let mut command = begun.command.context("no command")?;
                let status = command.wait(PATIENCE)?;
                ensure!(status.success(), "{status}: {}", command.rest());
                if let Some(mut loader) = self.loader.take() {
                    loader.wait()?;
                }
                self.model.detach();
            }
        }
        Ok(())
    }

    fn loader(&mut self) -> anyhow::Result<&mut Attach> {
        self.loader.as_mut().context("no loader")
    }

    /// What the loader has said, of which a failure's story has the end.
    pub fn said(&mut self) -> String {
        let said = self.loader.as_mut().map(Attach::said).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}
