//! Processes by descriptor. Another process that gets the same pid can't be mistaken for the one
//! that the descriptor is of.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal,
    },
};

/// A descriptor of process `pid`. It is closed on exec.
///
/// Minimum kernel version: 5.3.
///
/// # Errors
/// `ESRCH` if there is no such process (any more), or if the number is that of a thread that
/// leads no process. `EINVAL` for 0.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::INVAL)?;
    // For such a thread the kernel says EINVAL, or ENOENT from 6.15 on. It says the same for a
    // moment of a process that is just ending.
    pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
        Errno::INVAL | Errno::NOENT => Errno::SRCH.into(),
        error => error.into(),
    })
}

/// A duplicate of the descriptor `fd` of the process. It is closed on exec.
///
/// A duplicate of a listener keeps the listener in its group after its worker has died, and
/// connections that the kernel hands to the listener then hang. So close the duplicate as soon as
/// it has served.
///
/// Minimum kernel version: 5.6.
///
/// # Errors
/// `EBADF` if the process has no such descriptor. `ESRCH` if the process has exited. `EPERM`
/// without `CAP_SYS_PTRACE`, or if a security module or the Yama setting `ptrace_scope=3` forbids
/// it.
pub fn take(pidfd: BorrowedFd<'_>, fd: i32) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())?)
}

/// Sends one of the signals that end a process or make it reload: `SIGHUP`, `SIGINT`, `SIGTERM`
/// or `SIGKILL`.
///
/// Minimum kernel version: 5.1.
///
/// # Errors
/// `EINVAL` for any other signal. `ESRCH` if the process has exited. `EPERM` if it belongs to
/// another user and the caller lacks `CAP_KILL`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let signal = match signal {
        libc::SIGHUP => Signal::HUP,
        libc::SIGINT => Signal::INT,
        libc::SIGTERM => Signal::TERM,
        libc::SIGKILL => Signal::KILL,
        _ => return Err(Errno::INVAL.into()),
    };
    Ok(pidfd_send_signal(pidfd, signal)?)
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::{fd::AsFd as _, fd::AsRawFd as _, unix::process::ExitStatusExt as _},
        process::{Command, id},
        thread,
    };

    use rustix::thread::gettid;

    use super::*;
    use crate::sys::sockopt;

    #[test]
    fn a_taken_descriptor_is_the_same_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let myself = open(id()).expect("a pidfd");
        let taken = take(myself.as_fd(), listener.as_raw_fd()).expect("a duplicate");
        assert_eq!(
            sockopt::cookie(&taken).expect("a cookie"),
            sockopt::cookie(&listener).expect("a cookie")
        );
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert_eq!(
            open(0).expect_err("no process 0").raw_os_error(),
            Some(libc::EINVAL)
        );
        let thread = thread::spawn(|| open(gettid().as_raw_nonzero().get() as u32));
        let error = thread.join().expect("the thread").expect_err("no process");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        let myself = open(id()).expect("a pidfd");
        let error = take(myself.as_fd(), 1_000_000).expect_err("no such descriptor");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_signal_reaches_its_process_and_only_while_it_lives() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
        let pidfd = open(child.id()).expect("a pidfd");
        send_signal(pidfd.as_fd(), libc::SIGTERM).expect("a signal");
        let status = child.wait().expect("its status");
        assert_eq!(status.signal(), Some(libc::SIGTERM));
        let error = send_signal(pidfd.as_fd(), libc::SIGTERM).expect_err("it is gone");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        let error = take(pidfd.as_fd(), 0).expect_err("it is gone");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
