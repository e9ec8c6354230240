//! Which sockets an epoll instance watches, and which process uses the instance.
//!
//! A process that was forked off a worker without an exec has the worker's epoll instance, too.
//! The kernel's tables don't say which of the two waits on it. Every worker that starts a child
//! is in that state for a moment.

use std::{collections::BTreeSet, os::fd::AsFd as _};

use crate::{
    survey::proc::blocked,
    sys::procfs::{self, started},
};

const KCMP_FILE: libc::c_int = 0;

/// An epoll instance as one process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoll {
    /// The process.
    pub pid: u32,
    /// Its descriptor of the instance.
    pub fd: i32,
}

/// The inodes that an epoll instance watches for connections, read from its fdinfo. The lines look
/// like `tfd:        5 events:       19 data:                5  pos:0 ino:2c1b sdev:8`.
///
/// All other lines are ignored. A watch that is switched off (its `events` don't include reading)
/// doesn't count, unless the worker re-arms it after each event.
pub fn watched_inodes(fdinfo: &str) -> impl Iterator<Item = u64> {
    fdinfo.lines().filter_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        words.by_ref().find(|word| *word == "events:")?;
        let events = u32::from_str_radix(words.next()?, 16).ok()?;
        let inode = words.find_map(|word| word.strip_prefix("ino:"))?;
        let reads = (libc::EPOLLIN | libc::EPOLLRDNORM | libc::EPOLLONESHOT) as u32;
        let inode = u64::from_str_radix(inode, 16).ok()?;
        (events & reads != 0).then_some(inode)
    })
}

/// Those of `epolls` whose process only inherited the instance from another of them and doesn't
/// use it.
///
/// If several processes share an instance, those that wait on it now use it. If none waits, the
/// oldest process does. If the kernel can't compare descriptors (`CONFIG_KCMP`), or doesn't allow
/// it, nothing counts as inherited.
pub fn inherited(epolls: &[Epoll]) -> BTreeSet<Epoll> {
    let mut instances: Vec<Vec<Epoll>> = Vec::new();
    for &epoll in epolls {
        match instances.iter_mut().find(|same| is_same(same[0], epoll)) {
            Some(same) => same.push(epoll),
            None => instances.push(vec![epoll]),
        }
    }
    let mut inherited = BTreeSet::new();
    for same in instances {
        if same.iter().any(|epoll| epoll.pid != same[0].pid) {
            let users = users(&same);
            inherited.extend(same.into_iter().filter(|epoll| !users.contains(&epoll.pid)));
        }
    }
    inherited
}

/// The processes that use an instance. `same` has all descriptors of that instance.
fn users(same: &[Epoll]) -> BTreeSet<u32> {
    let waiting: BTreeSet<u32> = same
        .iter()
        .filter(|epoll| {
            procfs::process(epoll.pid)
                .is_ok_and(|process| blocked::waits_in_epoll(process.as_fd(), epoll.fd))
        })
        .map(|epoll| epoll.pid)
        .collect();
    if !waiting.is_empty() {
        return waiting;
    }
    let started = |epoll: &&Epoll| started(epoll.pid).unwrap_or(u64::MAX);
    let oldest = same.iter().min_by_key(started);
    oldest.map(|epoll| epoll.pid).into_iter().collect()
}

/// Whether both are descriptors of the same instance.
fn is_same(one: Epoll, other: Epoll) -> bool {
    // SAFETY: the call takes only numbers. It compares, and changes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            one.pid,
            other.pid,
            KCMP_FILE,
            one.fd as libc::c_ulong,
            other.fd as libc::c_ulong,
        )
    };
    result == 0
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::{AsRawFd as _, OwnedFd},
        process::{Child, Command, Stdio, id},
        thread,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;
    use rustix::{
        event::{Timespec, epoll},
        io::{FdFlags, dup, fcntl_setfd},
    };

    use super::*;

    #[test]
    fn fdinfo_is_read_as_the_kernel_writes_it() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t9\n\
            tfd:        5 events:       19 data:                5  pos:0 ino:2c1b sdev:8\n\
            tfd:        6 events: 80000001 data: ffffffffffffffff  pos:0 ino:2c1c sdev:8\n\
            tfd:        7 events: 40000000 data:                7  pos:0 ino:2c1d sdev:8\n\
            tfd:        8 events:        4 data:                8  pos:0 ino:2c1e sdev:8\n\
            tfd: rubbish\ntfd:\nino:77\n";
        let inodes: Vec<_> = watched_inodes(text).collect();
        assert_eq!(inodes, [0x2c1b, 0x2c1c, 0x2c1d]);
    }

    /// A child that has inherited `instance` and doesn't use it, with its descriptor of the
    /// instance.
    fn heir(instance: &OwnedFd) -> (Child, Epoll) {
        let copy = dup(instance).expect("a duplicate");
        fcntl_setfd(&copy, FdFlags::empty()).expect("the flag");
        let mut command = Command::new("cat");
        let child = command.stdin(Stdio::piped()).spawn().expect("a child");
        let (pid, fd) = (child.id(), copy.as_raw_fd());
        (child, Epoll { pid, fd })
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().expect("its end");
    }

    #[test]
    fn an_instance_belongs_to_the_oldest_while_nobody_waits() {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance");
        let (pid, fd) = (id(), instance.as_raw_fd());
        // A start time has a resolution of 10 ms.
        thread::sleep(Duration::from_millis(30));
        let (child, copy) = heir(&instance);
        let dropped = inherited(&[copy, Epoll { pid, fd }]);
        end(child);
        assert_eq!(dropped, BTreeSet::from([copy]));
    }

    #[test]
    fn an_instance_belongs_to_who_waits_on_it() {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance");
        let (pid, fd) = (id(), instance.as_raw_fd());
        let (child, copy) = heir(&instance);
        let dropped = thread::scope(|scope| {
            scope.spawn(|| {
                let second = Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                };
                let mut events = [epoll::Event {
                    flags: epoll::EventFlags::empty(),
                    data: epoll::EventData::new_u64(0),
                }];
                epoll::wait(&instance, &mut events, Some(&second)).expect("no event");
            });
            let myself = procfs::process(pid).expect("this process");
            let deadline = Instant::now() + Duration::from_millis(900);
            while !blocked::waits_in_epoll(myself.as_fd(), fd) {
                assert!(Instant::now() < deadline, "it was never seen to wait");
            }
            inherited(&[copy, Epoll { pid, fd }])
        });
        end(child);
        assert_eq!(dropped, BTreeSet::from([copy]));
    }

    #[test]
    fn different_instances_are_never_inherited() {
        let own = || epoll::create(epoll::CreateFlags::CLOEXEC).expect("an instance");
        let (one, other) = (own(), own());
        let (child, copy) = heir(&other);
        let pid = id();
        let fd = one.as_raw_fd();
        let dropped = inherited(&[copy, Epoll { pid, fd }]);
        end(child);
        assert_eq!(dropped, BTreeSet::new());
        assert_eq!(inherited(&[]), BTreeSet::new());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _count = watched_inodes(&text).count();
        }

        #[test]
        fn no_watch_line_panics(text in "tfd:[ 0-9a-f]{0,9}(events:)?[ 0-9a-f]{0,40}(ino:[0-9a-fx]{0,20})?\n") {
            let _count = watched_inodes(&text).count();
        }
    }
}
