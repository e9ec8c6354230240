//! Tells which processes end.

use std::{collections::BTreeSet, os::fd::OwnedFd};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::sys::{pidfd, readable::readable};

/// The processes that hold a listener. Their ends are sent to `sender`.
pub(super) struct Exits {
    pub(super) sender: mpsc::UnboundedSender<u32>,
    pub(super) watched: Vec<(u32, JoinHandle<()>)>,
}

impl Exits {
    /// Stops waiting for processes that have ended.
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
                    // If the watch has ended, nobody receives this any more.
                    sender.send(pid).ok();
                }),
                // The process has ended already.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    tokio::spawn(async move {
                        sender.send(pid).ok();
                    })
                }
                // The end of its listener is noticed without this, unless other processes hold
                // the listener, too.
                Err(error) => {
                    log::warn!("the end of process {pid} can't be waited for: {error}");
                    continue;
                }
            };
            self.watched.push((pid, task));
        }
    }
}

/// Waits for the end of a process. Its pidfd becomes readable then.
async fn ended(process: OwnedFd) {
    if let Ok(process) = readable(process) {
        drop(process.readable().await);
    }
}
