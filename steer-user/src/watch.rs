//! Follows a port by the kernel's events until it is told to stop.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya::maps::{MapData, RingBuf};
use steer_common::event::{Event, EventKind};
use tokio::{io::Interest, sync::mpsc, task::JoinHandle, time::sleep_until};

use crate::{
    attachment::{Attachment, Look, Outlook},
    exit::advice,
    orders::{Order, Orders},
    output::message,
    pidfd,
    readable::{changing, readable},
    reload::{FileId, Refusal, Reload, Trial},
    supervisor::{Heartbeat, Supervisor},
};

/// How soon to look again while something is in flux: a listener is announced a moment before the
/// kernel has put it into its tables.
const FLUX: Duration = Duration::from_millis(1);
/// How often to do that before the announced listener is taken for one that never came.
const FLUX_TRIES: u32 = 50;
/// How long after a join to look at every process: by then a worker polls its listener.
const VERIFY: Duration = Duration::from_millis(250);
/// How long after connections that steer didn't choose for to look who does: they come in numbers.
const UNSELECTED: Duration = Duration::from_millis(250);
/// How soon to look again for somebody who polls a listener that nobody polled, doubled each time.
const UNPOLLED_FIRST: Duration = Duration::from_millis(10);
/// The longest such wait.
const UNPOLLED_LONGEST: Duration = Duration::from_secs(5);

/// What is said where the pins are gone.
const UNPINNED: &str = "warning: steer's pins are gone; was the bpffs unmounted? This steer goes on \
                        steering and following, but `steer status` doesn't see it, and after a \
                        SIGKILL nobody would follow its workers: stop it, mount the bpffs, and attach again";

/// Keeps the attachment equal to its workers until it is told to stop. Told to reload, it becomes the
/// new steer, or goes on.
pub async fn watch(
    attachment: &mut Attachment,
    ring: RingBuf<MapData>,
    mut outlook: Outlook,
    orders: &mut Orders,
    reload: &Reload,
    supervisor: &mut Supervisor,
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
        retry_at: None,
        unselected_at: None,
        tries: 0,
        unpolled_wait: UNPOLLED_FIRST,
    };
    watcher.note(&mut outlook);
    let mut heartbeat = Heartbeat::new();
    let mut trial = Trial::default();
    supervisor.ready(&attachment.summary());
    loop {
        let wake = watcher.wake();
        let status = attachment.summary();
        supervisor.status(&status);
        tokio::select! {
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
            Some(pid) = exited.recv() => watcher.owner_exited(attachment, pid),
            () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                watcher.timer(attachment);
            }
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
    retry_at: Option<Instant>,
    unselected_at: Option<Instant>,
    tries: u32,
    unpolled_wait: Duration,
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
                    self.verify_at = Some(Instant::now() + VERIFY);
                }
                EventKind::Close => {
                    self.expected.remove(&event.cookie);
                    pids.get_or_insert_default();
                }
                EventKind::Unselected => {
                    let at = Instant::now() + UNSELECTED;
                    self.unselected_at.get_or_insert(at);
                }
            }
            log::debug!("event: {event:?}");
        }
        pids
    }

    fn wake(&self) -> Option<Instant> {
        [self.verify_at, self.retry_at, self.unselected_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn timer(&mut self, attachment: &mut Attachment) {
        let now = Instant::now();
        let everywhere = self.verify_at.is_some_and(|at| at <= now);
        if everywhere {
            self.verify_at = None;
        }
        let retry = self.retry_at.is_some_and(|at| at <= now);
        if retry {
            self.retry_at = None;
        }
        if self.unselected_at.is_some_and(|at| at <= now) {
            self.unselected_at = None;
        }
        // What is only in flux needs no second look at every process.
        let look = if everywhere || retry && self.tries == 0 {
            Look::Everywhere
        } else {
            Look::At(&[])
        };
        self.look(attachment, look);
    }

    /// A worker that ended took its listener along, unless others hold that too.
    fn owner_exited(&mut self, attachment: &mut Attachment, pid: u32) {
        self.exits.watched.retain(|(watched, _)| *watched != pid);
        let still_there = attachment.serves(pid);
        if still_there {
            self.look(attachment, Look::Everywhere);
        }
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
                self.retry_at = Some(Instant::now() + UNPOLLED_LONGEST);
            }
        }
    }

    fn note(&mut self, outlook: &mut Outlook) {
        self.exits.watch(&outlook.owners);
        self.retry_at = None;
        if outlook.in_flux && self.tries < FLUX_TRIES {
            self.tries += 1;
            self.retry_at = Some(Instant::now() + FLUX);
            return;
        }
        if outlook.in_flux {
            log::debug!("given up waiting for {:?}", self.expected);
            self.expected.clear();
            self.verify_at = Some(Instant::now() + VERIFY);
        }
        self.tries = 0;
        if outlook.unpolled {
            self.retry_at = Some(Instant::now() + self.unpolled_wait);
            self.unpolled_wait = (2 * self.unpolled_wait).min(UNPOLLED_LONGEST);
        } else {
            self.unpolled_wait = UNPOLLED_FIRST;
        }
    }
}

/// Tells when the owner of a listener ends.
struct Exits {
    sender: mpsc::UnboundedSender<u32>,
    watched: Vec<(u32, JoinHandle<()>)>,
}

impl Exits {
    fn watch(&mut self, owners: &BTreeSet<u32>) {
        self.watched.retain(|(pid, task)| {
            let stays = owners.contains(pid);
            if !stays {
                task.abort();
            }
            stays
        });
        for &pid in owners {
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
