//! What the tests of real servers share: nothing that a server starts outlives its test, and its
//! workers are found by what they answer.

pub mod npm;
pub mod pm2;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use crate::{
    census::{self, Census},
    isolate::isolate,
    process::eventually,
    skip::Skip,
};
use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take until all its workers answer.
const READY: Duration = Duration::from_secs(30);

/// How long killed processes may take to end.
const ENDED: Duration = Duration::from_secs(5);

/// Where programs of the administrator are, which the PATH of an ordinary user lacks.
const MORE_PATH: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The test's own network namespace. When dropped, every process that is still in it is killed, be
/// it a daemon or a grandchild that nobody knows of: servers start processes of their own.
#[derive(Debug)]
pub struct Room(PathBuf);

impl Room {
    /// [`isolate`]s the test.
    ///
    /// # Errors
    /// As [`isolate`].
    pub fn enter() -> anyhow::Result<Self> {
        let outside = namespace("thread-self")?;
        isolate()?;
        let inside = namespace("thread-self")?;
        ensure!(inside != outside, "still in {}", outside.display());
        Ok(Self(inside))
    }

    fn others(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse::<u32>().ok())
            .filter(|&pid| pid != process::id())
            // A process that has just ended has no namespace.
            .filter(|pid| namespace(&pid.to_string()).is_ok_and(|seen| seen == self.0))
            .filter_map(|pid| Pid::from_raw(pid as i32))
            .collect()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        eventually(ENDED, || {
            let others = self.others();
            for &pid in &others {
                // It fails for one that has ended meanwhile, which is as good.
                kill_process(pid, Signal::KILL).ok();
            }
            others.is_empty()
        });
    }
}

/// The program.
///
/// # Errors
/// Why there is none.
pub fn program(name: &'static str, package: &'static str) -> Result<PathBuf, Skip> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(MORE_PATH.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .ok_or(Skip::Program { name, package })
}

/// A file of `tests/servers`.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("servers")
        .join(name)
}

/// Waits until `count` workers answer at the address; returns their pids in order.
///
/// # Errors
/// When there aren't as many in time.
pub fn pids(address: SocketAddr, count: usize) -> anyhow::Result<Vec<u32>> {
    let mut last = Census::default();
    let ready = eventually(READY, || {
        // Connections that are refused while the workers start are part of it.
        last = census::one_by_one(address, 10 * count).unwrap_or_default();
        last.served.len() >= count
    });
    let pids: Vec<u32> = last.served.keys().copied().collect();
    ensure!(
        ready && pids.len() == count,
        "not {count} workers after {READY:?}: {last:?}"
    );
    Ok(pids)
}

fn namespace(process: &str) -> anyhow::Result<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net"))
        .with_context(|| format!("failed to find the network namespace of {process}"))
}
