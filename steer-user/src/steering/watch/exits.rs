//! Tells which processes end.

use std::{collections::BTreeSet, os::fd::OwnedFd};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::sys::{pidfd, readable::readable};

/// Tells when a process that has a listener ends.
pub(super) struct Exits {
    pub(super) sender: mpsc::UnboundedSender<u32>,
    pub(super) watched: Vec<(u32, JoinHandle<()>)>,
}

impl Exits {
    /// Waits no more for these, which have ended.
    pub(super) fn forget(&mut self, ended: &[u32]) {
        self.watched.retain(|(pid, _)| !ended.contains(pid));
    }

    pub(super) fn watch(&mut self, processes: &BTreeSet<u32>) {
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
