//! Waits until a descriptor becomes readable, or until what a file shows changes.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor's owner with the runtime.
pub fn readable<T: AsFd + AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the types that are passed here own their descriptor, return the same one every
    // time, and close it only when they are dropped, which is after their deregistration.
    unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }.map_err(Into::into)
}

/// Registers a file of /proc with the runtime. The kernel reports an exceptional condition when
/// what the file shows has changed.
pub fn changing(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a file owns its descriptor and keeps it. It closes it when it is dropped, which is
    // after its deregistration.
    unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.map_err(Into::into)
}
