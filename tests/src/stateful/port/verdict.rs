//! What must hold at the end, and what there is to say of it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};

use super::{PATIENCE, Port};
use crate::{
    churn::{ends::Ends, load::Attempt},
    process::eventually,
    stateful::{
        model::{State, Steered},
        random::Random,
        step::{Act, Lead},
    },
};

/// How much a loader's memory may grow after its first step, in KiB: its allocator's arenas.
const GROWTH_KIB: u64 = 1024;

/// Listeners that close, of which one may take along a connection that is being established at that
/// very moment: see docs/restarts.md.
const CLOSING_EVERY: usize = 50;

impl Port {
    /// Ends as it began, and checks that nothing was lost without its worker and no loader grew.
    ///
    /// # Errors
    /// When something was.
    pub fn finish(&mut self, random: &mut Random) -> anyhow::Result<()> {
        let frozen = |state| state == State::Frozen;
        while let Some(place) = self.model.units.iter().position(|unit| frozen(unit.state)) {
            self.act(Act::Thaw(place), random)?;
        }
        self.place.enter()?;
        self.held.clear();
        let load = self.load.take().context("no load")?;
        let run = load.finish()?;
        if self.model.steered != Steered::No {
            let begun = self.begin(Lead::Detach)?;
            self.complete(begun)?;
            self.check_maps()?;
        }
        ensure!(self.loader.is_none());
        // A process of theirs that was killed has claims, too.
        self.crew.end_all()?;
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
            ends.closing <= 1 + self.crew.closings / CLOSING_EVERY,
            "{ends:?}"
        );
        ensure!(
            self.growth <= GROWTH_KIB,
            "memory grew by {} KiB",
            self.growth
        );
        Ok(())
    }

    /// Waits until the kernel has nothing of steer any more, once all ports have finished.
    ///
    /// # Errors
    /// When it has.
    pub fn check_objects(&self) -> anyhow::Result<()> {
        let mut left = BTreeSet::new();
        let all_gone = eventually(PATIENCE, || {
            left.clone_from(&self.objects);
            left.retain(|object| object.exists());
            left.is_empty()
        });
        ensure!(all_gone, "the kernel still has {left:?}");
        Ok(())
    }

    /// What came of it, in a few lines.
    pub fn report(&self) -> String {
        let ends = &self.ends;
        let (times, open) = self.compared;
        format!(
            "{}: {} units started, {} listeners closed, {} loaders\n  {} connections: {} served, {} lost with \
             a killed worker that had accepted them, {} while unsteered, {} being established with a \
             listener that closed\n  active was the kernel's own list {times} times, of {open} \
             connections; {} programs, maps and links were made, none is left; a loader's memory grew by \
             {} KiB at most, its descriptors by {}\n",
            self.name(),
            self.crew.started,
            self.crew.closings,
            self.loaders,
            ends.sent,
            ends.served,
            ends.accepted,
            self.excused,
            ends.closing,
            self.objects.len(),
            self.growth,
            self.descriptors,
        )
    }
}

fn overlaps(attempt: &Attempt, unsteered: &[(Duration, Option<Duration>)]) -> bool {
    unsteered
        .iter()
        .any(|(from, to)| attempt.ended >= *from && to.is_none_or(|to| attempt.opened <= to))
}
