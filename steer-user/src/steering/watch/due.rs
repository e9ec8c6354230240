//! What steer still expects to happen, and when it looks for that.

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

/// How soon to look again while something is in flux. The event that announces a listener comes a
/// moment before the kernel lists the listener.
const FLUX: Duration = Duration::from_millis(1);
/// How often to look again for an announced listener. After that, steer takes it for one that
/// never came.
const FLUX_TRIES: u32 = 50;
/// How long after the beginning to look at all processes again.
const VERIFY: Duration = Duration::from_millis(250);
/// How long to wait, after connections that steer didn't choose for, before looking who chooses.
/// Such connections come in numbers.
const UNSELECTED: Duration = Duration::from_millis(250);
/// How soon to try again after an error.
const AGAIN: Duration = Duration::from_secs(5);
/// Looks that a timer or the end of a process asks for take at most one twentieth of a processor.
const PART: u32 = 20;
/// How long a look puts off the next such look, at most.
const REST: Duration = Duration::from_millis(500);

/// What steer still expects to happen.
pub(super) struct Watcher {
    exits: Exits,
    /// Listeners that an event has announced and that aren't found yet.
    expected: BTreeSet<u64>,
    verify_at: Option<Instant>,
    /// When to look again for something in flux, such as an announced listener.
    flux_at: Option<Instant>,
    /// When to try again what failed.
    again_at: Option<Instant>,
    unselected_at: Option<Instant>,
    tries: u32,
    /// Listeners of which steer doesn't know yet who serves them, or where the event loop waits.
    open: Backoff,
    /// Processes that held a listener and have ended.
    pub(super) ended: Vec<u32>,
    /// Looks for `open` and `ended` wait until this time, so that they don't take up a processor.
    rest_until: Instant,
}

impl Watcher {
    /// A watcher at the beginning. It tells `sender` which processes end.
    pub(super) fn new(sender: mpsc::UnboundedSender<u32>) -> Self {
        Self {
            exits: Exits {
                sender,
                watched: Vec::new(),
            },
            expected: BTreeSet::new(),
            // For workers that were just starting, or had not accepted yet, at the first look.
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

    /// Reads all events, and returns the processes that began to listen. None if no listener came
    /// or went.
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
                // The kernel goes on steering by what it has. So steer says what failed, and
                // tries again.
                message(&format!(
                    "warning: {error:#}{}; trying again",
                    advice(&error)
                ));
                self.again_at.get_or_insert(Instant::now() + AGAIN);
            }
        }
    }

    /// Notes what a look has left open. What is due stays due at its time, whatever else asks for
    /// a look.
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

/// The processor time that this process has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
