//! Follows a port by the kernel's events, until a signal ends that.

mod due;
mod exits;

use std::{
    fs::File,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya::maps::{MapData, RingBuf};
use steer_common::event::{Event, EventKind};
use tokio::{io::Interest, sync::mpsc, time::sleep_until};

use self::due::Watcher;
use crate::{
    output::{
        exit::{Exit, Fail},
        print::message,
        supervisor::{self, Heartbeat, Supervisor},
    },
    steering::{
        attachment::{Attachment, Outlook},
        orders::{Order, Orders},
        reload::{FileId, Refusal, Reload, Trial},
    },
    survey::groups::Look,
    sys::readable::{changing, readable},
};

/// What steer says if its pins are gone.
const UNPINNED: &str = "warning: steer's pins are gone; was the bpffs unmounted? This steer goes on \
                        steering and following its workers, but `steer status` doesn't see it, and if it \
                        were killed, nobody would follow them: stop it, mount the bpffs, and attach again";

/// When to give up an attachment that has steered nothing yet.
#[derive(Clone, Debug)]
pub struct GiveUp {
    /// The time.
    pub at: Instant,
    /// What was to be steered, in the words of messages.
    pub subject: String,
    /// How long steer has waited by then.
    pub after: Duration,
}

/// Keeps the attachment equal to its workers until an order stops it. On the order to reload,
/// this process becomes the new steer, or goes on as it is.
///
/// # Errors
/// If nothing has been steered by the time of `give_up`.
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
    // From here on the kernel tells of every change of what is mounted.
    let mut pinned = attachment.is_pinned();
    if !pinned {
        message(UNPINNED);
    }
    pass_on_logs(attachment);
    let (exits, mut exited) = mpsc::unbounded_channel();
    let mut watcher = Watcher::new(exits);
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

/// Becomes the steer that a trial has found good. Returns only if that fails, or if the file has
/// changed since and must be tried first.
fn execute(
    reload: &Reload,
    outcome: Result<FileId, Refusal>,
    attachment: &Attachment,
    trial: &mut Trial,
) -> anyhow::Result<()> {
    let tried = outcome?;
    ensure!(
        attachment.is_pinned(),
        "steer's pins are gone, and the new file could not go on without them"
    );
    // The watchdog's time begins now, so the new steer has all of it.
    supervisor::alive();
    let changed = reload.execute(tried, attachment.lock());
    if changed.context("failed to execute the new file")? {
        trial.begin(reload);
    }
    Ok(())
}

/// The error that nothing was steered in time.
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

/// Waits until a time. None is now.
async fn at(time: Option<Instant>) {
    sleep_until(time.unwrap_or_else(Instant::now).into()).await;
}

/// Passes the logs of new groups' programs to this process's log, if its level is debug or finer.
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

/// The event in a record of the ring buffer. None if this steer doesn't know the kind of event.
pub fn event_in(record: &[u8]) -> Option<(EventKind, Event)> {
    let event: Event = bytemuck::try_pod_read_unaligned(record).ok()?;
    Some((EventKind::from_raw(event.kind)?, event))
}
