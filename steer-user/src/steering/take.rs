//! Takes a worker's listener, for as long as one call needs it and no longer. If a duplicate
//! outlives its worker, the listener stays in the group, and connections on it hang.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use crate::{
    kernel::yama::{self, Forbidden},
    survey::proc::holders::Holder,
    sys::{pidfd, sockopt},
};

/// Why steer couldn't take a listener.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The process or its descriptor is gone, or is another one by now.
    #[error("process {pid} doesn't hold the listener any more")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The kernel refused.
    #[error("failed to take the listener from process {pid} (descriptor {fd})")]
    Refused {
        /// The process.
        pid: u32,
        /// Its descriptor.
        fd: i32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Yama forbids it.
    #[error("failed to take the listener from process {pid}")]
    Forbidden {
        /// The process.
        pid: u32,
        /// Why.
        source: Forbidden,
    },
}

/// A duplicate of the listener with this socket cookie. Minimum kernel version: Linux 5.6. Needs
/// CAP_SYS_PTRACE.
pub fn listener(holder: &Holder, cookie: u64) -> Result<OwnedFd, TakeError> {
    let Holder { pid, fd, .. } = *holder;
    let refused = |source: io::Error| match source.raw_os_error() {
        Some(libc::ESRCH | libc::EBADF) => TakeError::Gone { pid },
        Some(libc::EPERM) => match yama::require() {
            Err(source) => TakeError::Forbidden { pid, source },
            Ok(()) => TakeError::Refused { pid, fd, source },
        },
        _ => TakeError::Refused { pid, fd, source },
    };
    let process = pidfd::open(pid).map_err(refused)?;
    let socket = pidfd::take(process.as_fd(), fd).map_err(refused)?;
    // The pid and the descriptor were found a moment ago. Only the cookie proves that they still
    // name the same socket. Something that isn't a socket has no cookie.
    match sockopt::cookie(&socket) {
        Ok(found) if found == cookie => Ok(socket),
        _ => Err(TakeError::Gone { pid }),
    }
}
