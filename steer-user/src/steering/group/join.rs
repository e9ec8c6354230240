//! Carries out the steps that make a group's slots equal to its workers.

use aya::maps::MapError;
use bytemuck::Zeroable as _;
use steer_common::{
    limits::MAX_SLOTS,
    slot::{Slot, SlotState, Tag, inverse_weight},
};

use super::Group;
use crate::{
    state::host::Host,
    steering::{
        plan::{MARKS, Step, Wanted, comm},
        take::{self, TakeError},
    },
};

/// Why a worker could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its listener could not be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// Its listener is in another socket map.
    #[error(
        "another program has the listener of process {pid} in its socket map already: detach that program first"
    )]
    Busy {
        /// The worker's process.
        pid: u32,
    },
    /// The listener isn't in the group yet, or not any more.
    #[error("the listener of process {pid} isn't in a group")]
    NotListening {
        /// The worker's process.
        pid: u32,
    },
    /// A map refused for another reason.
    #[error("failed to add the listener of process {pid} to the group's maps")]
    Map {
        /// The worker's process.
        pid: u32,
        /// The kernel's reason.
        #[source]
        source: MapError,
    },
}

impl JoinError {
    /// Whether the worker is just coming or going, so that the next look decides.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NotListening { .. } | Self::Take(TakeError::Gone { .. })
        )
    }
}

impl Group {
    /// Completes what a killed steer may have only begun, after a group was taken over. The
    /// listener of a live slot may not be in the socket map yet. The listener of any other slot
    /// may still be in it.
    ///
    /// Returns false if a worker was just going, so that this must be tried again at the next
    /// look.
    pub fn mend(&mut self, wanted: &[Wanted]) -> Result<bool, JoinError> {
        if !self.adopted {
            return Ok(true);
        }
        let mut is_good = true;
        for slot in 0..MAX_SLOTS {
            match self.mend_slot(slot, wanted) {
                Ok(()) => {}
                Err(error) if error.is_passing() => is_good = false,
                Err(error) => return Err(error),
            }
        }
        self.adopted = !is_good;
        Ok(is_good)
    }

    fn mend_slot(&mut self, slot: u32, wanted: &[Wanted]) -> Result<(), JoinError> {
        let entry = self.table.slots.get(slot as usize).copied();
        let live = entry.filter(|entry| entry.state == SlotState::Live as u32);
        let Some(entry) = live else {
            // Most slots are empty already.
            drop(self.sockets.clear_index(&slot));
            return Ok(());
        };
        let worker = wanted.iter().find(|worker| worker.cookie == entry.cookie);
        let Some(worker) = worker else {
            return Ok(());
        };
        let listener = take::listener(&worker.owner, worker.cookie)?;
        match self.sockets.set(slot, &listener, 0) {
            Ok(()) => {}
            // The listener was in the socket map already.
            Err(error) if os_error(&error) == Some(libc::EBUSY) => {}
            Err(error) => return Err(refused(entry.pid, error)),
        }
        self.to_know.push((entry.cookie, slot));
        Ok(())
    }

    /// Carries out one step of a plan. [`Step::Join`] begins the slot's counts at zero.
    pub fn apply(&mut self, host: &mut Host, step: &Step) -> Result<(), JoinError> {
        match step {
            Step::Leave { slot } => {
                let mut entry = self.table.slots[*slot as usize];
                entry.state = SlotState::Gone as u32;
                entry.sock = 0;
                entry.waiters = 0;
                self.table
                    .write_slot(*slot, entry)
                    .map_err(map_error(entry.pid))?;
                // The listener stays in KNOWN until its slot is given away, because connections
                // of it may still migrate. If the listener has closed, the kernel has already
                // emptied the slot in the socket map.
                drop(self.sockets.clear_index(slot));
                Ok(())
            }
            Step::Refresh { slot, worker } => {
                let entry = entry(worker, &self.table.slots[*slot as usize]);
                self.table
                    .write_slot(*slot, entry)
                    .map_err(map_error(entry.pid))
            }
            Step::Return { slot, worker } => self.put_back(*slot, worker),
            Step::Join { slot, worker } => self.join(host, *slot, worker),
            Step::Surplus { .. } => Ok(()),
        }
    }

    /// Puts a listener back into its slot. The listener still has its tag, and its connections
    /// are counted as before.
    fn put_back(&mut self, slot: u32, worker: &Wanted) -> Result<(), JoinError> {
        let pid = worker.owner.pid;
        let listener = take::listener(&worker.owner, worker.cookie)?;
        let former = self.table.slots[slot as usize];
        let entry = entry(worker, &former);
        self.table.write_slot(slot, entry).map_err(map_error(pid))?;
        if let Err(error) = self.sockets.set(slot, &listener, 0) {
            self.table
                .write_slot(slot, former)
                .map_err(map_error(pid))?;
            return Err(refused(pid, error));
        }
        self.to_know.push((worker.cookie, slot));
        Ok(())
    }

    fn join(&mut self, host: &mut Host, slot: u32, worker: &Wanted) -> Result<(), JoinError> {
        let pid = worker.owner.pid;
        let listener = take::listener(&worker.owner, worker.cookie)?;
        let previous = self.table.slots.get(slot as usize);
        let previous = previous.copied().unwrap_or(Slot::zeroed());
        // A listener that was shut down and listens again keeps the weight and flags that it had.
        let before = self.table.known_slot(worker.cookie);
        let before = before.and_then(|slot| self.table.slots.get(slot as usize));
        let before = before.filter(|slot| slot.cookie == worker.cookie);
        let weight = before.map_or(1, |slot| slot.weight);
        let mut fresh = Slot {
            generation: next_generation(previous.generation),
            weight,
            inverse_weight: inverse_weight(weight),
            flags: before.map_or(0, |slot| slot.flags) & !MARKS | worker.marks,
            ..entry(worker, &previous)
        };
        if self.table.known_slot(previous.cookie) == Some(slot) {
            self.table.forget(previous.cookie);
        }
        self.table
            .reset_counters(slot, fresh.generation)
            .map_err(map_error(pid))?;
        // The listener is tagged before it can be selected, so that no connection is born
        // uncounted.
        let tag = self.tag(slot, fresh.generation, Tag::UNCOUNTED);
        host.tag(&listener, tag).map_err(map_error(pid))?;
        self.table.write_slot(slot, fresh).map_err(map_error(pid))?;
        if let Err(error) = self.sockets.set(slot, &listener, 0) {
            fresh.state = SlotState::Gone as u32;
            self.table.write_slot(slot, fresh).map_err(map_error(pid))?;
            return Err(refused(pid, error));
        }
        self.to_know.push((worker.cookie, slot));
        Ok(())
    }
}

fn entry(worker: &Wanted, previous: &Slot) -> Slot {
    Slot {
        cookie: worker.cookie,
        sock: worker.sock,
        state: SlotState::Live as u32,
        pid: worker.owner.pid,
        comm: comm(&worker.owner.comm),
        fd: worker.owner.fd,
        waiters: worker.waiters,
        flags: previous.flags & !MARKS | worker.marks,
        ..*previous
    }
}

/// The next generation of a slot. It is never 0. A slot's first generation is taken from the
/// clock, so that no tag of a connection of an earlier group with the same number still carries
/// it.
fn next_generation(previous: u32) -> u32 {
    let first = || {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        (clock.tv_sec as u32)
            .wrapping_mul(1000)
            .wrapping_add((clock.tv_nsec / 1_000_000) as u32)
    };
    let next = if previous == 0 {
        first()
    } else {
        previous.wrapping_add(1)
    };
    next.max(1)
}

fn map_error(pid: u32) -> impl Fn(MapError) -> JoinError {
    move |source| JoinError::Map { pid, source }
}

fn os_error(error: &MapError) -> Option<i32> {
    let MapError::SyscallError(error) = error else {
        return None;
    };
    error.io_error.raw_os_error()
}

/// Why the socket map doesn't take a listener.
fn refused(pid: u32, error: MapError) -> JoinError {
    match os_error(&error) {
        Some(libc::EBUSY) => JoinError::Busy { pid },
        Some(libc::EINVAL) => JoinError::NotListening { pid },
        _ => map_error(pid)(error),
    }
}
