//! Whether a thread of a process is blocked on a socket in accept, poll or select.
//!
//! Nothing shows that a worker without epoll serves a listener, except while the worker waits for
//! the next connection. Then the kernel tells which system call each thread is in, and with which
//! arguments.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::{
    fs::{Dir, Mode, OFlags, openat},
    io::{Errno, pread},
};

use crate::sys::procfs;

/// How many bytes of a set for poll() are read at most. A pollfd has 8 bytes. Of a longer set
/// only the beginning is read.
const POLL_SET: usize = 4096 * 8;

/// Whether a thread of the process waits in accept, poll or select for descriptor `fd`. `process`
/// is the process's directory in `/proc`.
///
/// False proves nothing: the thread may be busy with a connection. A thread that can't be looked
/// at counts as not waiting.
pub fn waits_for(process: BorrowedFd<'_>, fd: i32) -> bool {
    blocked_calls(process).any(|call| call.concerns(process, fd))
}

/// Whether a thread of the process waits for events of its epoll instance `epoll`. `process` is
/// the process's directory in `/proc`. A thread that can't be looked at counts as not waiting.
pub fn waits_in_epoll(process: BorrowedFd<'_>, epoll: i32) -> bool {
    blocked_calls(process)
        .any(|call| is_epoll_wait(call.number) && call.arguments[0] as i32 == epoll)
}

/// The system calls that the process's threads are blocked in.
fn blocked_calls(process: BorrowedFd<'_>) -> impl Iterator<Item = Call> {
    threads(process).into_iter().filter_map(move |thread| {
        let line = procfs::contents(process, &format!("task/{thread}/syscall")).ok()?;
        parse(&String::from_utf8_lossy(&line))
    })
}

fn open(process: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(
        process,
        path,
        flags | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn threads(process: BorrowedFd<'_>) -> Vec<u32> {
    let Ok(tasks) = open(process, "task", OFlags::DIRECTORY).and_then(Dir::new) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
        .collect()
}

/// A system call that a thread is blocked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its first three arguments.
    pub arguments: [u64; 3],
}

/// Reads a line of `/proc/PID/task/TID/syscall`. None if the thread is running.
pub fn parse(line: &str) -> Option<Call> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 3];
    for argument in &mut arguments {
        let digits = words.next()?.strip_prefix("0x")?;
        *argument = u64::from_str_radix(digits, 16).ok()?;
    }
    Some(Call { number, arguments })
}

impl Call {
    fn concerns(&self, process: BorrowedFd<'_>, fd: i32) -> bool {
        let [first, second, _] = self.arguments;
        match self.number {
            libc::SYS_accept | libc::SYS_accept4 => first as i32 == fd,
            number if is_poll(number) => {
                let length = usize::try_from(second).unwrap_or(usize::MAX);
                let set = memory(process, first, length.saturating_mul(8).min(POLL_SET));
                set.is_some_and(|set| in_poll_set(&set, fd))
            }
            // The second argument is the set of descriptors to read from.
            number if is_select(number) => {
                let Ok(place) = u64::try_from(fd) else {
                    return false;
                };
                place < first
                    && second != 0
                    && memory(process, second.saturating_add(place / 8), 1)
                        .is_some_and(|byte| byte[0] >> (place % 8) & 1 == 1)
            }
            _ => false,
        }
    }
}

fn is_poll(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_poll {
        return true;
    }
    number == libc::SYS_ppoll
}

fn is_select(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_select {
        return true;
    }
    number == libc::SYS_pselect6
}

fn is_epoll_wait(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_epoll_wait {
        return true;
    }
    number == libc::SYS_epoll_pwait || number == libc::SYS_epoll_pwait2
}

/// Whether a set of `struct pollfd` waits for connections on `fd`.
pub fn in_poll_set(set: &[u8], fd: i32) -> bool {
    set.chunks_exact(8).any(|entry| {
        entry.first_chunk() == Some(&fd.to_ne_bytes())
            && entry[4..].first_chunk().is_some_and(|events| {
                i16::from_ne_bytes(*events) & (libc::POLLIN | libc::POLLRDNORM) != 0
            })
    })
}

/// `length` bytes of the process's memory at `address`.
fn memory(process: BorrowedFd<'_>, address: u64, length: usize) -> Option<Vec<u8>> {
    let memory = open(process, "mem", OFlags::empty()).ok()?;
    let mut bytes = vec![0; length];
    let read = pread(&memory, bytes.as_mut_slice(), address).ok()?;
    (read == length && read > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::{AsFd as _, AsRawFd as _},
        thread,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;
    use rustix::event::{FdSetElement, PollFd, PollFlags, fd_set_insert, poll, select};

    use super::*;

    fn myself() -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/self", flags, Mode::empty()).expect("this process")
    }

    /// Runs `wait` in a thread, and says whether the thread was seen to wait for the listener.
    /// `wait` must return when a connection comes.
    fn seen(wait: impl FnOnce(&TcpListener) + Send) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let other = TcpListener::bind("127.0.0.1:0").expect("another");
        let address = listener.local_addr().expect("its address");
        let process = myself();
        assert!(!waits_for(process.as_fd(), listener.as_raw_fd()));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&listener));
            let deadline = Instant::now() + Duration::from_secs(2);
            let mut seen = false;
            while !seen && Instant::now() < deadline {
                seen = waits_for(process.as_fd(), listener.as_raw_fd());
            }
            assert!(!waits_for(process.as_fd(), other.as_raw_fd()));
            let _wake = TcpStream::connect(address).expect("a connection");
            waiting.join().expect("the thread");
            seen
        })
    }

    #[test]
    fn accept_is_seen() {
        assert!(seen(|listener| drop(listener.accept())));
    }

    #[test]
    fn poll_is_seen() {
        assert!(seen(|listener| {
            let mut set = [PollFd::new(listener, PollFlags::IN)];
            poll(&mut set, None).expect("a connection");
        }));
    }

    #[test]
    fn select_is_seen() {
        assert!(seen(|listener| {
            let mut set = vec![FdSetElement::default(); 16];
            fd_set_insert(&mut set, listener.as_raw_fd());
            // SAFETY: the set holds one descriptor, which is open for the whole call.
            unsafe { select(listener.as_raw_fd() + 1, Some(&mut set), None, None, None) }
                .expect("a connection");
        }));
    }

    #[test]
    fn a_line_is_read_as_the_kernel_writes_it() {
        let line = "43 0x3 0x0 0x7ffd0 0x4 0x5 0x6 0x7ffd0 0x7f00\n";
        let call = Call {
            number: 43,
            arguments: [3, 0, 0x7ffd0],
        };
        assert_eq!(parse(line), Some(call));
        for other in [
            "",
            "running\n",
            "-1 0x7ffd0 0x7f00\n",
            "43 3 0 0",
            "43 0x3 0x0",
        ] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC*") {
            let _call = parse(&line);
        }

        #[test]
        fn no_set_panics(set in proptest::collection::vec(any::<u8>(), 0..64), fd in any::<i32>()) {
            let _found = in_poll_set(&set, fd);
        }
    }
}
