//! Whether another event loop than the one that the loader knows of watches a worker's listener by now.
//!
//! A server that reloads hands its listeners over to new workers, and the old ones may live on for as long
//! as their connections do. Nothing tells of that, and the loop that is known would be the wrong one. So
//! it is looked up again now and then, when the worker is selected.

use steer_common::event::{Event, EventKind};

use crate::{attachments, events, queue, slots};

/// Of so many selections of a worker one looks.
pub(crate) const LOOK_EVERY: u64 = 64;

/// Looks at the listener of a slot, and tells the loader where it isn't as it was.
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
    // A thread waits in the listener's own queue, where it has no entry while it is busy.
    let is_known = event_loop == known || event_loop == 0 && known == head;
    Some(!is_known)
}
