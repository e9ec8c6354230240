//! What must hold at the end, and what there is to say of it.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};

use super::{PATIENCE, Port};
use crate::{
    churn::{
        ends::Ends,
        load::Attempt,
        monitor::{FOLLOW, FOLLOW_AT_LAST},
    },
    patience::patience,
    process::eventually,
    stateful::{model::Steered, step::Step},
};

/// How much a loader's memory may grow after its first step, in KiB: its allocator's arenas.
const GROWTH_KIB: u64 = 1024;

/// Workers that leave, of which one may take along a connection that is being established at that
/// very moment: see docs/restarts.md.
const CLOSING_EVERY: usize = 100;

impl Port {
    /// Ends as it began, and checks that nothing is left.
    ///
    /// # Errors
    /// When something is, or a connection was lost without its worker.
    pub fn finish(&mut self) -> anyhow::Result<()> {
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
            self.delays.percentile(50) <= FOLLOW && self.delays.max() <= patience(FOLLOW_AT_LAST),
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

    /// What came of it, in a few lines.
    ///
    /// # Errors
    /// None; writing to a string doesn't fail.
    pub fn report(&self, seconds: u64, seed: u64) -> anyhow::Result<String> {
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
