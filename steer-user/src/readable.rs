//! Waits for descriptors to become readable.

use std::{
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
