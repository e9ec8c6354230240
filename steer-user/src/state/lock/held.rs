//! Who holds a lock, according to /proc/locks.

use std::{fmt, fs, os::fd::BorrowedFd};

use rustix::{
    fs::{FlockOperation, flock, fstat, major, minor},
    io::Errno,
};

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// The process with this id in the pid namespace of this process's /proc.
    Process(u32),
    /// A process of another pid namespace, which this /proc doesn't show; or a process that has
    /// just let go.
    Unseen,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => formatter.write_str("nobody"),
            Self::Process(pid) => write!(formatter, "process {pid}"),
            Self::Unseen => formatter.write_str("a process in another pid namespace"),
        }
    }
}

/// The holder of the lock of an open directory.
pub(super) fn of(directory: BorrowedFd<'_>) -> Result<Holder, Errno> {
    if let Some(pid) = listed(directory)? {
        return Ok(Holder::Process(pid));
    }
    // /proc/locks leaves out processes of other pid namespaces. Only an attempt to take the lock
    // shows whether such a process has it. A process that wants the lock in this very moment
    // tries again.
    match flock(directory, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            flock(directory, FlockOperation::Unlock)?;
            Ok(Holder::Nobody)
        }
        // A process that /proc/locks shows may have taken the lock since.
        Err(Errno::WOULDBLOCK) => Ok(listed(directory)?.map_or(Holder::Unseen, Holder::Process)),
        Err(error) => Err(error),
    }
}

fn listed(directory: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    let found = fstat(directory)?;
    // If /proc/locks can't be read, no process is seen.
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let device = (major(found.st_dev), minor(found.st_dev));
    Ok(holder_in(&text, device, found.st_ino))
}

/// The process that holds an exclusive flock(2) lock on a file, in the text of /proc/locks.
///
/// ```text
/// 1: FLOCK  ADVISORY  WRITE 708 00:13:42533 0 EOF
/// 1: -> FLOCK  ADVISORY  WRITE 709 00:13:42533 0 EOF      (waits for the lock)
/// ```
pub fn holder_in(text: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = (words.next()?, words.next()?, words.next()?);
        if kind != ("FLOCK", "ADVISORY", "WRITE") {
            return None;
        }
        let pid: u32 = words.next()?.parse().ok()?;
        let mut file = words.next()?.split(':');
        let mut hexadecimal = || u32::from_str_radix(file.next()?, 16).ok();
        let found = (hexadecimal()?, hexadecimal()?);
        let is_it = found == device && file.next()?.parse() == Ok(inode);
        is_it.then_some(pid)
    })
}
