//! What is still expected to happen, and when to look for it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use rustix::time::{ClockId, clock_gettime};
use steer_common::event::EventKind;
use tokio::sync::mpsc;

use super::{event_in, exits::Exits};
use crate::{
    output::print::message,
    steering::{
        attachment::{Attachment, Outlook},
        backoff::Backoff,
        failure::advice,
    },
    survey::groups::Look,
};

/// How soon to look again while something is in flux: a listener is announced a moment before the
/// kernel has put it into its tables.
const FLUX: Duration = Duration::from_millis(1);
/// How often to do that before the announced listener is taken for one that never came.
const FLUX_TRIES: u32 = 50;
/// How long after the beginning to look at every process again.
const VERIFY: Duration = Duration::from_millis(250);
/// How long after connections that steer didn't choose for to look who does: they come in numbers.
const UNSELECTED: Duration = Duration::from_millis(250);
/// How soon to try again what failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Looks that a timer or the end of a process asks for take at most one part in so many of a processor.
const PART: u32 = 20;
/// How long that puts off the next one at most.
const REST: Duration = Duration::from_millis(500);

/// What is still expected to happen.
pub(super) struct Watcher {
    exits: Exits,
    /// Listeners that were announced and not found yet.
    expected: BTreeSet<u64>,
    verify_at: Option<Instant>,
    /// A listener was announced and isn't listed yet.
    flux_at: Option<Instant>,
    /// Something failed.
    again_at: Option<Instant>,
    unselected_at: Option<Instant>,
    tries: u32,
    /// Listeners of which it can't be told yet who serves them, or how.
    open: Backoff,
    /// Processes that had a listener and have ended.
    pub(super) ended: Vec<u32>,
    /// The next look by a timer, so that looks don't take up a processor.
    rest_until: Instant,
}

impl Watcher {
    /// At the beginning; `sender` is told which processes end.
    pub(super) fn new(sender: mpsc::UnboundedSender<u32>) -> Self {
        Self {
            exits: Exits {
                sender,
                watched: Vec::new(),
            },
            expected: BTreeSet::new(),
            // Who was in the middle of starting, or had not accepted yet, when all were looked at.
            verify_at: Some(Instant::now() + VERIFY),
            flux_at: None,
            again_at: None,
            unselected_at: None,
            tries: 0,
            open: Backoff::default(),
            ended: Vec::new(),
            rest_until: Instant::now(),
        }
    }

    /// Reads all events; returns the processes that began to listen, and nothing where no listener
    /// came or went.
    pub(super) fn read(&mut self, ring: &mut RingBuf<MapData>) -> Option<Vec<u32>> {
        let mut pids: Option<Vec<u32>> = None;
        while let Some(record) = ring.next() {
            let Some((kind, event)) = event_in(&record) else {
                continue;
            };
            match kind {
                EventKind::Listen => {
                    self.expected.insert(event.cookie);
                    self.tries = 0;
                    pids.get_or_insert_default().push(event.pid);
                }
                EventKind::Close => {
                    self.expected.remove(&event.cookie);
                    pids.get_or_insert_default();
                }
                EventKind::Unselected | EventKind::HandedOver => {
                    let at = Instant::now() + UNSELECTED;
                    self.unselected_at.get_or_insert(at);
                }
            }
            log::debug!("event: {event:?}");
        }
        pids
    }

    /// When the next look is due that no event asks for.
    pub(super) fn wake(&self) -> Option<Instant> {
        let ended = (!self.ended.is_empty()).then_some(self.rest_until);
        let open = self.open.next().map(|at| at.max(self.rest_until));
        [
            self.verify_at,
            self.flux_at,
            self.again_at,
            self.unselected_at,
            ended,
            open,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn timer(&mut self, attachment: &mut Attachment) {
        let now = Instant::now();
        let begun = processor_time();
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let verify = is_due(&mut self.verify_at);
        let again = is_due(&mut self.again_at);
        is_due(&mut self.flux_at);
        is_due(&mut self.unselected_at);
        let ended = if self.rest_until <= now {
            std::mem::take(&mut self.ended)
        } else {
            Vec::new()
        };
        self.exits.forget(&ended);
        let look = if verify || again {
            Look::Everywhere
        } else if ended.is_empty() {
            Look::At(&[])
        } else {
            Look::Ended(&ended)
        };
        self.look(attachment, look);
        let took = processor_time().saturating_sub(begun);
        self.rest_until = Instant::now() + (PART * took).min(REST);
    }

    pub(super) fn look(&mut self, attachment: &mut Attachment, look: Look<'_>) {
        let look = if attachment.has_lost_events() {
            message("warning: events were lost; looking at every process");
            Look::Everywhere
        } else {
            look
        };
        match attachment.reconcile(look, &self.expected) {
            Ok(mut outlook) => {
                self.expected
                    .retain(|cookie| !outlook.found.contains(cookie));
                self.note(&mut outlook);
            }
            Err(error) => {
                // The kernel goes on steering by what it has, so this is said and tried again.
                message(&format!(
                    "warning: {error:#}{}; trying again",
                    advice(&error)
                ));
                self.again_at.get_or_insert(Instant::now() + AGAIN);
            }
        }
    }

    /// What is due stays due at its time: a look that something else asked for changes nothing of it.
    pub(super) fn note(&mut self, outlook: &mut Outlook) {
        let now = Instant::now();
        self.exits.watch(&outlook.processes);
        self.open.note(&outlook.open, now);
        if outlook.failed {
            self.again_at.get_or_insert(now + AGAIN);
        }
        if !outlook.in_flux {
            self.tries = 0;
            self.flux_at = None;
        } else if self.tries < FLUX_TRIES {
            self.tries += 1;
            self.flux_at = Some(now + FLUX);
        } else {
            log::debug!("given up waiting for {:?}", self.expected);
            self.expected.clear();
            self.tries = 0;
            self.again_at.get_or_insert(now + VERIFY);
        }
    }
}

/// What this process has taken of processors.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
