//! What signals tell a running steer to do.
//!
//! The signals stay blocked as long as the process lives, over an exec, too. They are read from a
//! descriptor. A signal that comes at any moment waits in the kernel until the steer that runs by
//! then reads it. So none is lost between two versions, and none ends a steer in the middle of a
//! change.

use std::io::{self, IsTerminal as _};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use tokio::io::unix::AsyncFd;

use crate::sys::readable::readable;

/// What somebody wants a running steer to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// SIGHUP, if stdin isn't a terminal: another steer is to take over in this process.
    Reload,
    /// SIGINT or SIGTERM, or SIGHUP if stdin is a terminal: that terminal is gone then.
    Stop,
}

impl Order {
    /// What a signal means. None if the signal carries no order.
    pub const fn of(signal: i32, at_terminal: bool) -> Option<Self> {
        match signal {
            libc::SIGHUP if !at_terminal => Some(Self::Reload),
            libc::SIGHUP | libc::SIGINT | libc::SIGTERM => Some(Self::Stop),
            _ => None,
        }
    }
}

/// The signals that carry orders.
pub fn signals() -> SigSet {
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
        .into_iter()
        .collect()
}

/// Receives orders.
pub struct Orders {
    signals: AsyncFd<SignalFd>,
    /// Whether SIGHUP means that a terminal is gone.
    at_terminal: bool,
}

impl Orders {
    /// From here on a signal ends nothing, but is an order to be received. Call this while there
    /// is only one thread.
    pub fn listen() -> io::Result<Self> {
        let signals = signals();
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            signals: readable(SignalFd::with_flags(&signals, flags)?)?,
            at_terminal: io::stdin().is_terminal(),
        })
    }

    /// Waits for the next order. If several have come, returns the one that outweighs the others.
    /// The caller may drop this future at any time.
    pub async fn next(&mut self) -> io::Result<Order> {
        loop {
            let mut ready = self.signals.readable_mut().await?;
            let mut order = None;
            while let Some(signal) = ready.get_inner_mut().read_signal()? {
                order = order.max(Order::of(signal.ssi_signo.cast_signed(), self.at_terminal));
            }
            ready.clear_ready();
            if let Some(order) = order {
                return Ok(order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_signals_mean() {
        assert_eq!(Order::of(libc::SIGHUP, false), Some(Order::Reload));
        assert_eq!(Order::of(libc::SIGHUP, true), Some(Order::Stop));
        assert_eq!(Order::of(libc::SIGTERM, false), Some(Order::Stop));
        assert_eq!(Order::of(libc::SIGINT, true), Some(Order::Stop));
        assert_eq!(Order::of(libc::SIGCHLD, false), None);
        let all = [Some(Order::Reload), None, Some(Order::Stop)];
        assert_eq!(all.into_iter().max(), Some(Some(Order::Stop)));
    }
}
