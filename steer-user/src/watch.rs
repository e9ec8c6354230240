//! Follows a port by the kernel's events until it is told to stop.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya::maps::{MapData, RingBuf};
use rustix::time::{ClockId, clock_gettime};
use steer_common::event::{Event, EventKind};
use tokio::{io::Interest, sync::mpsc, task::JoinHandle, time::sleep_until};

use crate::{
    attachment::{Attachment, Outlook},
    backoff::Backoff,
    exit::{Exit, Fail, advice},
    orders::{Order, Orders},
    output::message,
    pidfd,
    readable::{changing, readable},
    reload::{FileId, Refusal, Reload, Trial},
    supervisor::{Heartbeat, Supervisor},
    survey::Look,
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

/// What is said where the pins are gone.
const UNPINNED: &str = "warning: steer's pins are gone; was the bpffs unmounted? This steer goes on \
                        steering and following, but `steer status` doesn't see it, and after a \
                        SIGKILL nobody would follow its workers: stop it, mount the bpffs, and attach again";

/// When an attachment under which nothing could be steered yet is given up.
#[derive(Clone, Debug)]
pub struct GiveUp {
    /// The time.
    pub at: Instant,
    /// What was to be steered, as messages name it.
    pub subject: String,
    /// How long that was waited for.
    pub after: Duration,
}

/// Keeps the attachment equal to its workers until it is told to stop. Told to reload, it becomes the
/// new steer, or goes on. Fails at `give_up` where nothing was ever steered until then.
pub async fn watch(
    attachment: &mut Attachment,
    ring: RingBuf<MapData>,
    mut outlook: Outlook,
    orders: &mut Orders,
    reload: &Reload,
    supervisor: &mut Supervisor,
    mut give_up: Option<GiveUp>,
) -> anyhow::Result<()> {
    let mut ring = readable(ring).context("failed to wait for the kernel's events")?;
    let mounts = File::open("/proc/self/mountinfo").and_then(changing);
    let mounts = mounts.context("failed to watch what is mounted")?;
    // From here on the kernel tells of it.
    let mut pinned = attachment.is_pinned();
    if !pinned {
        message(UNPINNED);
    }
    pass_on_logs(attachment);
    let (exits, mut exited) = mpsc::unbounded_channel();
    let mut watcher = Watcher {
        exits: Exits {
            sender: exits,
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
    };
    watcher.note(&mut outlook);
    let mut heartbeat = Heartbeat::new();
    let mut trial = Trial::default();
    supervisor.ready(&attachment.summary());
    loop {
        let wake = watcher.wake();
        let status = attachment.summary();
        supervisor.status(&status);
        if attachment.steers() {
            give_up = None;
        }
        tokio::select! {
            () = at(give_up.as_ref().map(|one| one.at)), if give_up.is_some() => {
                return Err(gave_up(attachment, give_up.as_ref()));
            }
            order = orders.next() => match order.context("failed to wait for signals")? {
                Order::Stop => return Ok(()),
                Order::Reload => {
                    supervisor.reloading();
                    trial.begin(reload);
                }
            },
            outcome = trial.outcome() => {
                if let Err(why) = execute(reload, outcome, attachment, &mut trial) {
                    message(&format!("warning: not reloaded: {why:#}"));
                    supervisor.ready(&status);
                }
            }
            () = heartbeat.beat() => {}
            changed = mounts.ready(Interest::PRIORITY | Interest::ERROR) => {
                changed.context("failed to watch what is mounted")?.clear_ready();
                if std::mem::replace(&mut pinned, attachment.is_pinned()) && !pinned {
                    message(UNPINNED);
                }
            }
            ready = ring.readable_mut() => {
                let mut ready = ready.context("failed to wait for the kernel's events")?;
                let pids = watcher.read(ready.get_inner_mut());
                ready.clear_ready();
                if let Some(pids) = pids {
                    watcher.look(attachment, Look::At(&pids));
                    pass_on_logs(attachment);
                }
            }
            Some(pid) = exited.recv() => watcher.ended.push(pid),
            () = at(wake), if wake.is_some() => watcher.timer(attachment),
        }
    }
}

/// Becomes the steer that a trial has found good. Returns only where that fails, or where another file is
/// to be tried first.
fn execute(
    reload: &Reload,
    outcome: Result<FileId, Refusal>,
    attachment: &Attachment,
    trial: &mut Trial,
) -> anyhow::Result<()> {
    let tried = outcome?;
    ensure!(attachment.is_pinned(), "there are no pins to go on with");
    let changed = reload.execute(tried, attachment.lock());
    if changed.context("failed to execute the new file")? {
        trial.begin(reload);
    }
    Ok(())
}

/// The failure to steer anything in time.
fn gave_up(attachment: &Attachment, give_up: Option<&GiveUp>) -> anyhow::Error {
    let what = give_up.map_or_else(String::new, |one| {
        format!(
            "{} isn't steered after {} s: {}",
            one.subject,
            one.after.as_secs(),
            attachment.awaited()
        )
    });
    Fail::new(Exit::CantSteer, what).into()
}

/// What this process has taken of processors.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// Waits until then.
async fn at(time: Option<Instant>) {
    sleep_until(time.unwrap_or_else(Instant::now).into()).await;
}

/// Passes what new groups' programs log to this process's log, where that is looked at.
fn pass_on_logs(attachment: &mut Attachment) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    for logger in attachment.take_loggers() {
        tokio::task::spawn_local(async move {
            let Ok(mut logger) = readable(logger) else {
                return;
            };
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
    }
}

/// The event in a record of the ring buffer; None where it is of no kind that this steer knows.
pub fn event_in(record: &[u8]) -> Option<(EventKind, Event)> {
    let event: Event = bytemuck::try_pod_read_unaligned(record).ok()?;
    Some((EventKind::from_raw(event.kind)?, event))
}

/// What is still expected to happen.
struct Watcher {
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
    ended: Vec<u32>,
    /// The next look by a timer, so that looks don't take up a processor.
    rest_until: Instant,
}

impl Watcher {
    /// Reads all events; returns the processes that began to listen, and nothing where no listener
    /// came or went.
    fn read(&mut self, ring: &mut RingBuf<MapData>) -> Option<Vec<u32>> {
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
    fn wake(&self) -> Option<Instant> {
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

    fn timer(&mut self, attachment: &mut Attachment) {
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

    fn look(&mut self, attachment: &mut Attachment, look: Look<'_>) {
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
    fn note(&mut self, outlook: &mut Outlook) {
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

/// Tells when a process that has a listener ends.
struct Exits {
    sender: mpsc::UnboundedSender<u32>,
    watched: Vec<(u32, JoinHandle<()>)>,
}

impl Exits {
    /// Waits no more for these, which have ended.
    fn forget(&mut self, ended: &[u32]) {
        self.watched.retain(|(pid, _)| !ended.contains(pid));
    }

    fn watch(&mut self, processes: &BTreeSet<u32>) {
        self.watched.retain(|(pid, task)| {
            let stays = processes.contains(pid);
            if !stays {
                task.abort();
            }
            stays
        });
        for &pid in processes {
            if self.watched.iter().any(|(watched, _)| *watched == pid) {
                continue;
            }
            let sender = self.sender.clone();
            let task = match pidfd::open(pid) {
                Ok(process) => tokio::spawn(async move {
                    ended(process).await;
                    // Nobody listens any more once the watch has ended.
                    sender.send(pid).ok();
                }),
                // It ended already.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    tokio::spawn(async move {
                        sender.send(pid).ok();
                    })
                }
                // Its listener's end is noticed all the same, unless others hold that too.
                Err(error) => {
                    log::warn!("the end of process {pid} can't be waited for: {error}");
                    continue;
                }
            };
            self.watched.push((pid, task));
        }
    }
}

/// A pidfd becomes readable when its process ends.
async fn ended(process: OwnedFd) {
    if let Ok(process) = readable(process) {
        drop(process.readable().await);
    }
}
