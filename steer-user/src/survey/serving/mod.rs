//! Decides who serves a listener, anew with each look, also by what earlier looks have shown.
//!
//! One look shows little. A worker that blocks in accept() isn't seen while it is busy. A forked
//! helper holds a listener that it never touches. In the middle of a reload, old and new workers
//! poll the same listener. So what was once seen of a listener stays until something contradicts
//! it. If steer can't decide, it says so, and never takes such a listener for one that nobody
//! serves.

use std::collections::BTreeSet;

use crate::survey::{proc::holders::Holder, queue::Queue};

/// Who serves a listener, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// This process. With [`Unsure::NotSeen`] it is the only process that can. With
    /// [`Unsure::Several`] it is the one of several that has served the listener for longest.
    By(Holder, Option<Unsure>),
    /// Certainly nobody. The process that served the listener is gone, and all who hold the
    /// listener were seen to leave it to that process.
    Nobody,
    /// Undecided. The process, if there is one, holds the listener.
    Undecided(Unsure, Option<Holder>),
}

/// Why something about a listener is undecided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsure {
    /// No process that steer sees holds the listener.
    NoHolder,
    /// These processes hold the listener, and none was seen to wait for connections.
    NotSeen(Vec<Holder>),
    /// These processes wait for connections on the listener.
    Several(Vec<Holder>),
}

/// How a process was seen to serve a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Not at all. It was the only process that could.
    Nothing,
    /// Blocked in accept, poll or select. It isn't seen while it is busy.
    Blocking,
    /// By an epoll instance. It is always seen.
    Epoll,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    pid: u32,
    by: By,
}

/// What is remembered of a listener.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    server: Option<Server>,
    /// Processes that hold the listener and left it to a server with an epoll instance, which is
    /// always seen.
    bystanders: BTreeSet<u32>,
    /// Kernel address of the wait queue in which the server's event loop waits. 0 if it isn't
    /// known (yet).
    event_loop: u64,
    /// Whether nothing can tell if the server waits. Then there is nothing to find out.
    untold: bool,
    /// Whether something is open that the next look may decide.
    open: bool,
    /// The queue at the last look.
    seen: Option<Queue>,
}

impl Memory {
    /// A memory of what an earlier steer left in a slot: the process, and the wait queue of its
    /// event loop.
    pub fn of_slot(pid: u32, event_loop: u64) -> Self {
        let by = By::Nothing;
        Self {
            server: Some(Server { pid, by }),
            event_loop,
            ..Self::default()
        }
    }

    /// Whether a look at processes may show more than was seen already.
    pub fn wants_look(&self, queue: &Queue) -> bool {
        let Some(seen) = &self.seen else {
            return true;
        };
        if !queue.is_known() {
            return self.open;
        }
        // A blocked thread comes and goes. An epoll instance stays.
        let is_other = queue.watch() != seen.watch();
        is_other || self.open && (!queue.is_empty() || !seen.is_empty())
    }

    /// Whether something is open that a later look may decide.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Kernel address of the wait queue in which the server's event loop waits. 0 if it isn't
    /// known.
    pub fn event_loop(&self) -> u64 {
        self.event_loop
    }

    /// Takes in what a look has shown: who holds the listener, and who waits on it. Returns who
    /// serves it.
    pub fn observe(&mut self, holders: &[Holder], queue: Queue) -> Serving {
        let former = self.server;
        let serving = self.decide(holders, &queue);
        match &serving {
            Serving::By(server, unsure) => {
                self.learn_loop(server, unsure.as_ref(), &queue);
                // The queue was read a moment before the processes were. So if the server
                // changed, the queue may not show the new one yet.
                let is_other = former.is_some_and(|former| former.pid != server.pid);
                let loop_open = is_other || self.event_loop == 0 && !self.untold;
                let waits_unseen = matches!(unsure, Some(Unsure::NotSeen(_))) && server.io_uring;
                self.open = !waits_unseen && (unsure.is_some() || loop_open);
            }
            Serving::Nobody | Serving::Undecided(..) => {
                self.event_loop = 0;
                self.open = true;
            }
        }
        self.seen = Some(queue);
        serving
    }

    fn decide(&mut self, holders: &[Holder], queue: &Queue) -> Serving {
        let polling: Vec<&Holder> = holders.iter().filter(|holder| holder.polls).collect();
        let held = self.server.and_then(|server| {
            let holder = holders.iter().find(|holder| holder.pid == server.pid)?;
            Some((server, holder))
        });
        match (polling.as_slice(), held) {
            (&[], Some((server, holder))) => {
                let seen = server.by != By::Nothing;
                let unsure = (!seen).then(|| Unsure::NotSeen(holders.to_vec()));
                Serving::By(holder.clone(), unsure)
            }
            (&[], None) => self.unseen(holders, queue),
            // The server may be busy, and the process that waits may be another worker of the
            // same listener.
            (&[only], Some((server, holder)))
                if server.pid != only.pid && server.by == By::Blocking =>
            {
                let both = vec![holder.clone(), only.clone()];
                Serving::By(holder.clone(), Some(Unsure::Several(both)))
            }
            (&[only], _) => {
                self.serves(only);
                if only.by_epoll {
                    let others = holders.iter().filter(|holder| !holder.polls);
                    self.bystanders = others.map(|holder| holder.pid).collect();
                }
                Serving::By(only.clone(), None)
            }
            (many, held) => {
                let several = Unsure::Several(many.iter().copied().cloned().collect());
                match held {
                    Some((_, holder)) => Serving::By(holder.clone(), Some(several)),
                    None => Serving::Undecided(several, Some(many[0].clone())),
                }
            }
        }
    }

    /// Decides if nobody is seen to wait on the listener, and the process that served it, if any,
    /// doesn't hold it any more.
    fn unseen(&mut self, holders: &[Holder], queue: &Queue) -> Serving {
        let is_bystander =
            |holder: &Holder| self.bystanders.contains(&holder.pid) || !holder.opaque;
        let was_always_seen = self.server.is_some_and(|server| server.by == By::Epoll);
        if was_always_seen
            && !holders.is_empty()
            && holders.iter().all(is_bystander)
            && queue.is_empty()
        {
            return Serving::Nobody;
        }
        match holders {
            [] => Serving::Undecided(Unsure::NoHolder, None),
            // The process may be between two calls of accept().
            [only] if !self.bystanders.contains(&only.pid) => {
                self.server = Some(Server {
                    pid: only.pid,
                    by: By::Nothing,
                });
                self.event_loop = 0;
                self.untold = false;
                Serving::By(only.clone(), Some(Unsure::NotSeen(holders.to_vec())))
            }
            [one, ..] => Serving::Undecided(Unsure::NotSeen(holders.to_vec()), Some(one.clone())),
        }
    }

    fn serves(&mut self, holder: &Holder) {
        let is_other = self.server.is_none_or(|server| server.pid != holder.pid);
        if is_other {
            self.event_loop = 0;
            self.untold = false;
        }
        let by = if holder.by_epoll {
            By::Epoll
        } else {
            By::Blocking
        };
        self.server = Some(Server {
            pid: holder.pid,
            by,
        });
    }

    /// Learns where the server's event loop waits. What is known stays until something else is
    /// seen.
    fn learn_loop(&mut self, server: &Holder, unsure: Option<&Unsure>, queue: &Queue) {
        if matches!(unsure, Some(Unsure::Several(_))) {
            self.event_loop = 0;
            self.untold = false;
            return;
        }
        if !server.polls || !queue.is_known() {
            return;
        }
        self.untold = false;
        match (queue.loops, queue.threads) {
            (0, 0) => {}
            (1, 0) if server.by_epoll => self.event_loop = queue.event_loop,
            // While any of the server's threads waits here, the server is free.
            (0, _) if !server.by_epoll && !server.io_uring => self.event_loop = queue.head,
            _ => {
                self.event_loop = 0;
                self.untold = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
