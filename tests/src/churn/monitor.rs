//! Compares the listeners that exist with those that steer's maps have, all the time.
//!
//! Both are read from the kernel one after the other, so a difference is seen at most one look after
//! it began and its end at most one look after it ended. Whatever is measured here is an upper bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use steer_common::slot::SlotState;
use steer_user::{
    state::{
        bpffs,
        pins::Pins,
        snapshot::{self, GroupSnapshot},
    },
    sys::sockdiag,
};

use super::{now, spread::Spread};
use crate::process::eventually;

/// How soon the maps should equal the listeners after a change: half of the times at least. It takes a
/// few milliseconds on a quiet machine; what is noticed only by the later look at all processes, 250 ms
/// after a change, takes longer than this.
pub const FOLLOW: Duration = Duration::from_millis(200);

/// How soon they must at last, before patience.
pub const FOLLOW_AT_LAST: Duration = Duration::from_secs(1);

/// What was seen of one listener's slot.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The listener's cookie.
    pub cookie: u64,
    /// When it was first in the maps.
    pub in_map: Duration,
    /// When the kernel program had first selected it.
    pub selected: Option<Duration>,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// From each change of the listeners, or from the first one of several in quick succession, until
    /// the maps equalled them again.
    pub delays: Spread,
    /// When the longest of them began, and what the maps lacked and had too much meanwhile.
    pub longest: String,
    /// What was last seen of each worker, by pid.
    pub slots: BTreeMap<u32, Seen>,
    /// How often it looked.
    pub looks: usize,
    /// The longest time between two looks. Where it is long, the machine had no time for anything,
    /// and a delay of about that length says nothing of steer.
    pub longest_pause: Duration,
    /// Whether the maps equalled the listeners at the last look.
    pub equal: bool,
    /// How many listeners there were at the last look.
    pub listeners: usize,
}

/// A running comparison. It ends with the process.
#[derive(Debug)]
pub struct Monitor {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Monitor {
    /// Compares from now on, with a pause between two looks, in the namespaces of the calling thread.
    pub fn start(port: u16, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&report));
        let thread = thread::spawn(move || {
            let mut watch = Watch::default();
            while !stopped.load(Ordering::Relaxed) {
                let look = look(port)?;
                let mut report = shared.lock().unwrap_or_else(PoisonError::into_inner);
                watch.take(look, &mut report);
                drop(report);
                thread::sleep(pause);
            }
            Ok(())
        });
        Self {
            stop,
            report,
            thread,
        }
    }

    /// What was seen so far.
    pub fn report(&self) -> Report {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.clone()
    }

    /// Waits until the kernel program has selected the worker with this pid.
    ///
    /// # Errors
    /// When it doesn't in time.
    pub fn selected(&self, pid: u32, within: Duration) -> anyhow::Result<Seen> {
        let mut seen = None;
        let is_selected = eventually(within, || {
            seen = self.report().slots.get(&pid).copied();
            seen.is_some_and(|seen| seen.selected.is_some())
        });
        ensure!(
            is_selected,
            "the worker with pid {pid} got nothing within {within:?}: {seen:?}"
        );
        seen.context("no slot was seen")
    }

    /// Waits until there are `listeners` listeners and the maps equal them.
    ///
    /// # Errors
    /// When it isn't so in time.
    pub fn equals(&self, listeners: usize, within: Duration) -> anyhow::Result<()> {
        let looks = self.report().looks;
        // The look that is under way may be of before.
        let is_equal = eventually(within, || {
            let report = self.report();
            report.looks > looks + 1 && report.equal && report.listeners == listeners
        });
        ensure!(
            is_equal,
            "not {listeners} listeners in the maps within {within:?}: {:?}",
            self.report()
        );
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the maps or the listeners could not be read at any time.
    pub fn finish(self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.join();
        result.map_err(|_panic| anyhow!("the comparison panicked"))??;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut report))
    }
}

/// One look.
struct Look {
    began: Duration,
    ended: Duration,
    listeners: BTreeSet<u64>,
    live: BTreeSet<u64>,
    /// Pid, cookie and selections of the live slots.
    selected: Vec<(u32, u64, u64)>,
}

fn look(port: u16) -> anyhow::Result<Look> {
    let began = now();
    let listeners = sockdiag::listeners(port)?;
    let mut look = Look {
        began,
        ended: began,
        listeners: listeners.iter().map(|listener| listener.cookie).collect(),
        live: BTreeSet::new(),
        selected: Vec::new(),
    };
    for group in groups(port)? {
        for (_, slot, counters) in &group.slots {
            if slot.state == SlotState::Live as u32 {
                look.live.insert(slot.cookie);
                look.selected
                    .push((slot.pid, slot.cookie, counters.selected));
            }
        }
    }
    look.ended = now();
    Ok(look)
}

/// What the maps have of the groups of a port.
///
/// # Errors
/// When they can't be read.
pub fn groups(port: u16) -> anyhow::Result<Vec<GroupSnapshot>> {
    let root = bpffs::existing_root()?.context("nothing is steered here")?;
    let snapshots = snapshot::read(&Pins::new(&root), Some(port))?;
    Ok(snapshots
        .into_iter()
        .flat_map(|snapshot| snapshot.groups)
        .collect())
}

/// What the looks before have told.
#[derive(Default)]
struct Watch {
    /// When the last look began.
    previous: Option<Duration>,
    listeners: BTreeSet<u64>,
    /// While the maps don't equal the listeners: the last time at which they did, and what differed.
    unequal: Option<(Duration, String)>,
}

impl Watch {
    fn take(&mut self, look: Look, report: &mut Report) {
        let previous = self.previous.unwrap_or(look.began);
        report.equal = look.listeners == look.live;
        if look.listeners != self.listeners || !report.equal {
            let (_, differs) = self
                .unequal
                .get_or_insert_with(|| (previous, format!("from {previous:?} on")));
            if !report.equal {
                let lacks: Vec<_> = look.listeners.difference(&look.live).collect();
                let extra: Vec<_> = look.live.difference(&look.listeners).collect();
                let since = look.began.saturating_sub(previous);
                let _ = write!(differs, "; +{since:?}: lacks {lacks:?}, has {extra:?}");
            }
        }
        if report.equal
            && let Some((from, differs)) = self.unequal.take()
        {
            let delay = look.ended.saturating_sub(from);
            if delay > report.delays.max() {
                report.longest = differs;
            }
            report.delays.add(delay);
        }
        for (pid, cookie, selected) in look.selected {
            let new = Seen {
                cookie,
                in_map: look.ended,
                selected: None,
            };
            let seen = report.slots.entry(pid).or_insert(new);
            if seen.cookie != cookie {
                // The pid is another process's by now.
                *seen = new;
            }
            if selected > 0 {
                seen.selected.get_or_insert(look.ended);
            }
        }
        report.listeners = look.listeners.len();
        report.looks += 1;
        report.longest_pause = report
            .longest_pause
            .max(look.began.saturating_sub(previous));
        self.previous = Some(look.began);
        self.listeners = look.listeners;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn watched(looks: &[(u64, &[u64], &[u64])]) -> Report {
        let mut watch = Watch::default();
        let mut report = Report::default();
        for (began, listeners, live) in looks {
            let look = Look {
                began: at(*began),
                ended: at(began + 1),
                listeners: listeners.iter().copied().collect(),
                live: live.iter().copied().collect(),
                selected: Vec::new(),
            };
            watch.take(look, &mut report);
        }
        report
    }

    #[test]
    fn a_delay_is_from_before_the_change_until_after_the_maps_have_followed() {
        let report = watched(&[
            (0, &[1], &[1]),
            (10, &[1, 2], &[1]),
            (20, &[1, 2], &[1]),
            (30, &[1, 2], &[1, 2]),
        ]);
        // The first look itself is one too: before it nothing was known.
        assert_eq!(report.delays.max(), at(31));
        assert!(report.equal);
    }

    #[test]
    fn a_change_that_was_followed_between_two_looks_counts_too() {
        let report = watched(&[(0, &[1], &[1]), (10, &[2], &[2])]);
        assert_eq!((report.delays.count(), report.delays.max()), (2, at(11)));
    }

    #[test]
    fn another_change_gives_the_maps_no_new_time() {
        let report = watched(&[(0, &[1], &[1]), (10, &[2], &[1]), (20, &[3], &[3])]);
        assert_eq!(report.delays.max(), at(21));
    }

    #[test]
    fn what_never_follows_is_not_equal() {
        assert!(!watched(&[(0, &[1], &[1]), (10, &[2], &[1])]).equal);
    }
}
