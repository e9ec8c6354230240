//! Descriptors of processes, according to the kernel's own list.

use std::collections::BTreeMap;

use steer_common::event::{FileKind, OpenFile};

use super::Descriptors;

/// Which processes have the port's sockets open, and which other descriptors of these processes
/// matter.
#[derive(Debug, Default)]
pub struct OpenFiles(BTreeMap<u32, Descriptors>);

impl OpenFiles {
    /// Reads the kernel's records. Processes without a socket of the port are left out.
    pub fn new(records: &[OpenFile]) -> Self {
        let mut processes: BTreeMap<u32, Descriptors> = BTreeMap::new();
        for record in records {
            let fd = record.fd as i32;
            let found = processes.entry(record.pid).or_default();
            match FileKind::from_raw(record.kind) {
                Some(FileKind::Socket) => {
                    found.sockets.entry(record.inode).or_default().insert(fd);
                }
                Some(FileKind::Epoll) => found.epolls.push(fd),
                Some(FileKind::IoUring) => found.io_uring = true,
                None => {}
            }
        }
        processes.retain(|_, found| !found.sockets.is_empty());
        Self(processes)
    }

    /// The inodes of the port's sockets that a process has open.
    pub fn sockets(&self, pid: u32) -> impl Iterator<Item = u64> {
        let found = self.0.get(&pid);
        found
            .into_iter()
            .flat_map(|found| found.sockets.keys().copied())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Descriptors)> {
        self.0.iter().map(|(pid, found)| (*pid, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32, fd: u32, kind: u32, inode: u64) -> OpenFile {
        OpenFile {
            pid,
            fd,
            kind,
            reserved: 0,
            inode,
        }
    }

    #[test]
    fn what_belongs_to_a_process_without_a_socket_is_left_out() {
        let files = OpenFiles::new(&[
            record(7, 3, 1, 100),
            record(7, 4, 2, 0),
            record(7, 9, 1, 100),
            record(8, 3, 2, 0),
            record(9, 3, 77, 0),
        ]);
        let pids: Vec<u32> = files.iter().map(|(pid, _)| pid).collect();
        assert_eq!(pids, [7]);
        assert_eq!(files.sockets(7).collect::<Vec<_>>(), [100]);
        assert_eq!(files.sockets(8).count(), 0);
        let (_, found) = files.iter().next().expect("process 7");
        assert_eq!(found.epolls, [4]);
        assert!(!found.io_uring);
        assert_eq!(found.sockets[&100].first(), Some(&3));
    }
}
