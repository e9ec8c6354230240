//! A network namespace, one of several on a host whose `/run` and bpffs they share.

use std::{fs::File, os::fd::AsFd as _};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use steer_user::sys::netns;

use crate::net;

/// A network namespace.
#[derive(Debug)]
pub struct Place {
    file: File,
    /// Its cookie.
    pub cookie: u64,
}

impl Place {
    /// The calling thread's.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub fn here() -> anyhow::Result<Self> {
        Ok(Self {
            file: File::open("/proc/thread-self/ns/net")?,
            cookie: netns::cookie()?,
        })
    }

    /// A new one with loopback, in which the calling thread is afterwards.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> anyhow::Result<Self> {
        // SAFETY: descriptors and memory stay shared; the thread gets a view of the network that differs
        // from the other threads', which no safe code depends on.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("failed to make a namespace")?;
        net::loopback_up()?;
        Self::here()
    }

    /// Moves the calling thread there, and with it what it starts from then on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> anyhow::Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.file.as_fd(), kind).context("failed to enter a namespace")
    }
}
