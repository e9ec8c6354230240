//! Who serves a listener: decided anew by each look, in the light of those before.
//!
//! One look shows little. A worker that blocks in accept() isn't seen while it is busy; a forked
//! helper holds what it never touches; old and new workers poll the same listener in the middle of a
//! reload. So what was once seen of a listener stays until something contradicts it, and what can't
//! be decided is said to be so: such a listener is never taken for one that nobody serves.

use std::collections::BTreeSet;

use crate::survey::{proc::holders::Holder, queue::Queue};

/// Who serves a listener, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// This process does. It may be the only one that could (`Unsure::NotSeen`), or the one of
    /// several that has had it for longest.
    By(Holder, Option<Unsure>),
    /// Certainly nobody: who served it is gone, and everybody who has it was seen to leave it to
    /// that one.
    Nobody,
    /// It can't be decided; the process is one that holds it.
    Undecided(Unsure, Option<Holder>),
}

/// Why something about a listener is undecided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsure {
    /// Nobody that steer sees has it.
    NoHolder,
    /// These have it, and none was seen to wait for connections.
    NotSeen(Vec<Holder>),
    /// These wait for connections on it.
    Several(Vec<Holder>),
}

/// How a process was seen to serve a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Not at all; it was the only one that could.
    Nothing,
    /// Blocked in accept, poll or select: not seen while it is busy.
    Blocking,
    /// By an epoll instance, seen always.
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
    /// Processes that hold it and left it to a server who was seen always.
    bystanders: BTreeSet<u32>,
    /// Where the server's event loop waits, 0 where that isn't known (yet).
    event_loop: u64,
    /// Nothing can tell whether the server waits, so there is nothing to find out.
    untold: bool,
    /// Something is open that the next look may decide.
    open: bool,
    /// The queue at the last look.
    seen: Option<Queue>,
}

impl Memory {
    /// What an earlier steer left in a slot: its process, and where its event loop waits.
    pub fn of_slot(pid: u32, event_loop: u64) -> Self {
        let by = By::Nothing;
        Self {
            server: Some(Server { pid, by }),
            event_loop,
            ..Self::default()
        }
    }

    /// Whether the processes have to be looked at to see more than was seen already.
    pub fn wants_look(&self, queue: &Queue) -> bool {
        let Some(seen) = &self.seen else {
            return true;
        };
        if !queue.is_known() {
            return self.open;
        }
        // A thread that is blocked comes and goes; an epoll instance stays.
        let is_other = queue.watch() != seen.watch();
        is_other || self.open && (!queue.is_empty() || !seen.is_empty())
    }

    /// Whether something is open that a later look may decide.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Where the server's event loop waits, 0 where that isn't known.
    pub fn event_loop(&self) -> u64 {
        self.event_loop
    }

    /// Takes in what a look has shown: everybody who holds the listener, and who waits on it.
    pub fn observe(&mut self, holders: &[Holder], queue: Queue) -> Serving {
        let former = self.server;
        let serving = self.decide(holders, &queue);
        match &serving {
            Serving::By(server, unsure) => {
                self.learn_loop(server, unsure.as_ref(), &queue);
                // The queue was looked at a moment before the processes were.
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
            // It may be busy, and the other one another worker of the same listener.
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

    /// Nobody is seen to wait on it, and who served it, if anybody, has it no more.
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
            // It may be between two calls of accept().
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

    /// What is known of the server's event loop stays until something else is seen.
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
            // While any of its threads waits here, it is free.
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
