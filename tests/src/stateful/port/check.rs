//! What must hold after each step.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use steer_user::survey::port::Port as Key;

use super::{PATIENCE, Port};
use crate::{
    process::eventually,
    stateful::{
        crew::Running,
        loader::Footprint,
        model::{State, Steered},
        objects, open,
        random::Random,
        seen, share,
    },
    status::Status,
    steer::{Attach, steer},
};

/// Connections that stay open from step to step at most.
const HELD: usize = 12;

impl Port {
    /// The maps are the listeners.
    ///
    /// # Errors
    /// When they aren't.
    pub fn check_maps(&mut self) -> anyhow::Result<()> {
        self.place.enter()?;
        let key = self.key();
        if self.model.steered == Steered::No {
            return at_last(|| {
                let left = seen::snapshot(key)?;
                ensure!(left.is_none(), "pins are left");
                Ok(())
            });
        }
        let mut slots = BTreeMap::new();
        at_last(|| {
            slots = seen::check(key, &self.model)?;
            Ok(())
        })?;
        let units = self.model.units.iter_mut();
        let listeners = units.flat_map(|unit| &mut unit.listeners);
        for listener in listeners.filter(|listener| listener.known) {
            if let Some((pid, rules)) = slots.get(&listener.cookie) {
                listener.named = *pid;
                listener.rules = *rules;
                listener.unsure = false;
            }
        }
        Ok(())
    }

    /// `steer status` says what it is.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn check_status(&self) -> anyhow::Result<()> {
        let Some(policy) = self.model.steered.policy() else {
            return Ok(());
        };
        self.place.enter()?;
        let Key { netns_cookie, port } = self.key();
        let finished = steer(["status", "--json", "--port", &port.to_string()])?;
        ensure!(finished.code == Some(0), "{finished:?}");
        let status: Status = serde_json::from_str(&finished.stdout)?;
        let mut attachments = status.attachments.into_iter();
        let status = attachments.find(|found| found.netns_cookie == netns_cookie);
        let status = status.context("status doesn't have it")?;
        ensure!(policy.name() == status.policy, "{policy:?}, but {status:?}");
        let loader = self.loader.as_ref().map(Attach::pid);
        ensure!(status.loader_pid == loader, "{loader:?}, but {status:?}");
        Ok(())
    }

    /// What is active is what the kernel lists. The clients have been quiet for a moment.
    ///
    /// # Errors
    /// When it isn't.
    pub fn check_active(&mut self) -> anyhow::Result<()> {
        if self.model.steered == Steered::No {
            return Ok(());
        }
        self.place.enter()?;
        let mut open = 0;
        at_last(|| {
            open = open::check(self.key(), &self.model)?;
            Ok(())
        })?;
        let (times, sum) = self.compared;
        self.compared = (times + 1, sum + open);
        Ok(())
    }

    /// Every worker has its share, while the connections that show it count as active; and `rr` is exact.
    ///
    /// # Errors
    /// When it hasn't.
    pub fn check_shares(&mut self, random: &mut Random) -> anyhow::Result<()> {
        if self
            .model
            .units
            .iter()
            .any(|unit| unit.state == State::Frozen)
        {
            return Ok(());
        }
        self.place.enter()?;
        let held = share::all_are_served(self.number, &self.model, random, &self.probes)?;
        self.held.extend(held);
        self.check_active().context("with connections held open")?;
        while self.held.len() > HELD {
            self.held.swap_remove(random.below(self.held.len()));
        }
        if share::is_countable(&self.model) {
            at_last(|| share::is_exact(self.number, &self.model))?;
        }
        Ok(())
    }

    /// Looks at what the loader has open: as much as at first, and something for each process.
    ///
    /// # Errors
    /// When it is more, which it may be for moments while it looks at processes.
    pub fn weigh(&mut self) -> anyhow::Result<()> {
        self.objects.extend(objects::pinned()?);
        let Some(loader) = &self.loader else {
            return Ok(());
        };
        let pid = loader.pid();
        self.objects.extend(objects::open_in(pid));
        let footprint = Footprint::of(pid)?;
        let first = *self.first.get_or_insert(footprint);
        self.growth = self.growth.max(footprint.data.saturating_sub(first.data));
        let processes = self
            .crew
            .running
            .iter()
            .map(Running::processes)
            .sum::<usize>();
        let limit = first.descriptors + processes;
        at_last(|| {
            let seen = Footprint::of(pid)?.descriptors;
            ensure!(
                seen <= limit,
                "the loader has {seen} descriptors, not {first:?} and {processes}"
            );
            self.descriptors = self.descriptors.max(seen.saturating_sub(first.descriptors));
            Ok(())
        })
    }
}

/// Tries until it holds; the error is the last one.
fn at_last(mut holds: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut last = holds();
    eventually(PATIENCE, || {
        if last.is_err() {
            last = holds();
        }
        last.is_ok()
    });
    last
}
