//! Who has a socket open, and who watches it.
//!
//! The kernel's list of open files says which of all processes have one of the port's sockets
//! open ([`OpenFiles`]). `/proc` is read only of those processes, and of processes that the
//! caller names.
//!
//! Every process that inherited a listener's descriptor, or was given one, holds the listener.
//! The process that polls it serves it.

mod open;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::{
    fs::{Dir, OFlags, readlinkat_raw},
    io::Errno,
};

pub use self::open::OpenFiles;
use crate::{
    output::plural,
    survey::proc::{
        blocked,
        epoll::{self, Epoll},
    },
    sys::procfs::{contents, directory, name, number, process, socket_inode},
};

/// A process with a descriptor of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing that was seen or not, whatever the others are"
)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name. This is foreign text: show it only through [`crate::output::escape::foreign`].
    pub comm: String,
    /// Its descriptor of the socket. If it has several, the lowest.
    pub fd: i32,
    /// Whether it was seen to wait for connections on the socket: one of its epoll instances
    /// watches the socket, or one of its threads is blocked on the socket in accept, poll or
    /// select. An epoll instance that the process only inherited, as a forked child does until
    /// its exec, doesn't count.
    pub polls: bool,
    /// Whether it waits by an epoll instance, which goes on watching while the process is busy.
    pub by_epoll: bool,
    /// Whether a `polls` of false proves nothing: the process has no epoll instance, so it may be
    /// busy between two accepts. Or it has an `io_uring`, which doesn't tell what it waits for.
    pub opaque: bool,
    /// Whether it has an `io_uring`, by which it may wait unseen.
    pub io_uring: bool,
}

/// Which processes to look at.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All processes that have one of the port's sockets open, according to the kernel's list.
    All(&'a OpenFiles),
    /// Only these processes, by what `/proc` shows of them.
    Pids(&'a [u32]),
}

/// Why steer can't tell who holds a socket.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// No holder of some socket was found, and some processes can't be looked into.
    #[error(
        "failed to find the process that holds socket {inode}: {} can't be looked into (process {pid} is \
         one); that needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
        plural::processes(*denied)
    )]
    Denied {
        /// The inode of a socket without a holder.
        inode: u64,
        /// How many processes can't be looked into.
        denied: u32,
        /// One of them.
        pid: u32,
    },
    /// A process can't be looked into, for another reason than a missing permission.
    #[error("failed to list the descriptors of process {pid}")]
    Process {
        /// The process.
        pid: u32,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// The holders of the sockets with `inodes`, by inode, ordered by pid. A socket that nobody holds
/// is not in the result. Threads are not told apart.
///
/// A process that ends meanwhile is left out, and so is a socket that its holder closes
/// meanwhile.
pub fn holders(
    inodes: &BTreeSet<u64>,
    scope: Scope<'_>,
) -> Result<BTreeMap<u64, Vec<Holder>>, ProcError> {
    let mut found: BTreeMap<u64, Vec<Found>> = BTreeMap::new();
    let mut denied = 0;
    let mut example = None;
    let looks: Vec<(u32, Result<_, Errno>)> = match scope {
        Scope::All(files) => {
            let looks = files
                .iter()
                .map(|(pid, open)| (pid, look(pid, inodes, open)));
            looks.collect()
        }
        Scope::Pids(pids) => {
            let pids: BTreeSet<u32> = pids.iter().copied().collect();
            let looks = pids.into_iter().map(|pid| (pid, walk(pid, inodes)));
            looks.collect()
        }
    };
    for (pid, look) in looks {
        match look {
            Ok(held) => {
                for (inode, one) in held {
                    found.entry(inode).or_default().push(one);
                }
            }
            // The process has ended, which is no error.
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(Errno::ACCESS | Errno::PERM) => {
                denied += 1;
                example.get_or_insert(pid);
            }
            Err(error) => {
                let source = error.into();
                return Err(ProcError::Process { pid, source });
            }
        }
    }
    let orphan = inodes.iter().find(|inode| !found.contains_key(inode));
    if let (Some(&inode), Some(pid)) = (orphan, example) {
        return Err(ProcError::Denied { inode, denied, pid });
    }
    let settled = found
        .into_iter()
        .map(|(inode, found)| (inode, settled(found)));
    Ok(settled.collect())
}

/// A holder, and the epoll instances by which its process watches the socket.
struct Found {
    holder: Holder,
    epolls: Vec<Epoll>,
}

/// The holders of one socket. Epoll instances that several processes share are counted for those
/// that use them.
fn settled(mut found: Vec<Found>) -> Vec<Holder> {
    let epolls: Vec<Epoll> = found.iter().flat_map(|one| one.epolls.clone()).collect();
    let inherited = epoll::inherited(&epolls);
    for one in &mut found {
        one.holder.by_epoll = one.epolls.iter().any(|epoll| !inherited.contains(epoll));
        one.holder.polls |= one.holder.by_epoll;
    }
    found.into_iter().map(|one| one.holder).collect()
}

/// Which of the sockets with `inodes` process `pid` holds, by what `/proc` shows of it.
fn walk(pid: u32, inodes: &BTreeSet<u64>) -> Result<Vec<(u64, Found)>, Errno> {
    let descriptors = descriptors(process(pid)?.as_fd())?;
    look(pid, inodes, &descriptors)
}

/// Which of the sockets with `inodes` process `pid` holds, given what it has open.
fn look(
    pid: u32,
    inodes: &BTreeSet<u64>,
    descriptors: &Descriptors,
) -> Result<Vec<(u64, Found)>, Errno> {
    let sockets = descriptors.sockets.iter();
    let sockets: Vec<_> = sockets
        .filter(|(inode, _)| inodes.contains(inode))
        .collect();
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    // All that follows is relative to this descriptor. So it can't be about another process that
    // got the same pid.
    let process = process(pid)?;
    let comm = name(process.as_fd())?;
    let mut watches = watches(process.as_fd(), pid, &descriptors.epolls);
    let held = sockets.into_iter().map(|(&inode, fds)| {
        let epolls = watches.remove(&inode).unwrap_or_default();
        let waits = |fd: &i32| blocked::waits_for(process.as_fd(), *fd);
        let holder = Holder {
            pid,
            comm: comm.clone(),
            fd: fds.first().copied().unwrap_or(-1),
            polls: epolls.is_empty() && fds.iter().any(waits),
            by_epoll: false,
            opaque: descriptors.epolls.is_empty() || descriptors.io_uring,
            io_uring: descriptors.io_uring,
        };
        (inode, Found { holder, epolls })
    });
    Ok(held.collect())
}

/// The descriptors of one process that matter here.
#[derive(Debug, Default)]
struct Descriptors {
    sockets: BTreeMap<u64, BTreeSet<i32>>,
    epolls: Vec<i32>,
    io_uring: bool,
}

fn descriptors(process: BorrowedFd<'_>) -> Result<Descriptors, Errno> {
    let mut found = Descriptors::default();
    let directory = directory(process, "fd", OFlags::RDONLY)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Some(fd) = number::<i32>(entry.file_name().to_bytes()) else {
            continue;
        };
        // The three links that matter are shorter than this. A path that is cut here is none of
        // them.
        let mut buffer = [MaybeUninit::uninit(); 64];
        let (link, _) = match readlinkat_raw(&directory, entry.file_name(), &mut buffer) {
            Ok(link) => link,
            // The descriptor was closed meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        match &*link {
            b"anon_inode:[eventpoll]" => found.epolls.push(fd),
            b"anon_inode:[io_uring]" => found.io_uring = true,
            other => {
                if let Some(inode) = socket_inode(other) {
                    found.sockets.entry(inode).or_default().insert(fd);
                }
            }
        }
    }
    Ok(found)
}

/// Which epoll instances of the process watch which inode. An instance that can't be read (any
/// more) watches nothing.
fn watches(process: BorrowedFd<'_>, pid: u32, epolls: &[i32]) -> BTreeMap<u64, Vec<Epoll>> {
    let mut watches: BTreeMap<u64, Vec<Epoll>> = BTreeMap::new();
    for &fd in epolls {
        if let Ok(fdinfo) = contents(process, &format!("fdinfo/{fd}")) {
            for inode in epoll::watched_inodes(&String::from_utf8_lossy(&fdinfo)) {
                watches.entry(inode).or_default().push(Epoll { pid, fd });
            }
        }
    }
    watches
}

#[cfg(test)]
mod tests;
