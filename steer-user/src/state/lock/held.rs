//! Who holds a lock, as /proc/locks tells.

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
    /// This process, as this process's /proc numbers it.
    Process(u32),
    /// One that this /proc doesn't show, or that has just let go: of another pid namespace.
    Unseen,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => formatter.write_str("nobody"),
            Self::Process(pid) => write!(formatter, "process {pid}"),
            Self::Unseen => formatter.write_str("a process of another pid namespace"),
        }
    }
}

/// The holder of the lock of an open directory.
pub(super) fn of(directory: BorrowedFd<'_>) -> Result<Holder, Errno> {
    if let Some(pid) = listed(directory)? {
        return Ok(Holder::Process(pid));
    }
    // The list leaves out who isn't in this pid namespace. Only to try tells; whoever wants the lock in
    // this moment tries again.
    match flock(directory, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            flock(directory, FlockOperation::Unlock)?;
            Ok(Holder::Nobody)
        }
        // It may have come in between.
        Err(Errno::WOULDBLOCK) => Ok(listed(directory)?.map_or(Holder::Unseen, Holder::Process)),
        Err(error) => Err(error),
    }
}

fn listed(directory: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    let found = fstat(directory)?;
    // Where it can't be read nobody is seen.
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let device = (major(found.st_dev), minor(found.st_dev));
    Ok(holder_in(&text, device, found.st_ino))
}

/// The process that holds a flock(2) lock for itself on a file, in the text of /proc/locks.
///
/// ```text
/// 1: FLOCK  ADVISORY  WRITE 708 00:13:42533 0 EOF
/// 1: -> FLOCK  ADVISORY  WRITE 709 00:13:42533 0 EOF      (waits for it)
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
