//! Whether another event loop watches a worker's listener than the one that the loader knows of.
//!
//! A server that reloads hands its listeners over to new workers. The old workers may live on for
//! as long as their connections do. Nothing tells of that, and the event loop that is known would
//! be the wrong one. So the program looks again now and then, when the worker is selected.

use steer_common::event::{Event, EventKind};

use crate::{attachments, events, queue, slots};

/// Of this many selections of a worker, one looks at the worker's listener.
pub(crate) const LOOK_EVERY: u64 = 64;

/// Looks at the listener of a slot. If another event loop watches it, tells the loader.
#[inline(always)]
pub(crate) fn look(slot: u32) {
    let Some(entry) = slots::slot(slot) else {
        return;
    };
    if entry.waiters == 0 || !is_other(entry.sock, entry.waiters).unwrap_or(false) {
        return;
    }
    let event = Event {
        sock: entry.sock,
        cookie: entry.cookie,
        time: 0,
        kind: EventKind::HandedOver as u32,
        pid: 0,
    };
    events::send(attachments::own(), &event);
}

#[inline(always)]
fn is_other(sock: u64, known: u64) -> Option<bool> {
    let head = queue::head(sock)?;
    let first = queue::next(head)?;
    let event_loop = if first == head {
        0
    } else {
        queue::event_loop(first)?
    };
    // If the worker is a thread that blocks on the listener, it waits in the listener's own queue.
    // It has no entry there while it is busy.
    let is_known = event_loop == known || event_loop == 0 && known == head;
    Some(!is_known)
}
