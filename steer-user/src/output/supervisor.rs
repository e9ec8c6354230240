//! Tells whoever started steer how it stands, where that wants to know: systemd's notification
//! protocol, sd_notify(3). Without `NOTIFY_SOCKET` in the environment nothing is done.

use std::{io, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::output::print::message;

/// What was told last, so that nothing is told twice.
#[derive(Debug, Default)]
pub struct Supervisor {
    status: String,
}

impl Supervisor {
    /// It has started, or reloaded: all that it is to do is being done.
    pub fn ready(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// How it stands, in a line.
    pub fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            tell(&[NotifyState::Status(status)]);
        }
    }

    /// It is about to reload. [`Supervisor::ready`] ends that, of this steer or of the one that is executed.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => failed(&error),
        }
    }

    /// It is about to end.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// Shows a watchdog that the event loop goes round; without one it does nothing, for ever.
#[derive(Debug)]
pub struct Heartbeat(Option<Interval>);

impl Heartbeat {
    /// Twice as often as the watchdog wants, which `WATCHDOG_USEC` tells. Needs a runtime.
    pub fn new() -> Self {
        let period = sd_notify::watchdog_enabled().map(|longest| longest / 2);
        Self(
            period
                .filter(|period| *period > Duration::ZERO)
                .map(|period| {
                    let mut beats = interval(period);
                    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    beats
                }),
        )
    }

    /// Waits for the next beat, and gives it. May be given up at any time.
    pub async fn beat(&mut self) {
        match &mut self.0 {
            Some(beats) => {
                beats.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows a watchdog that steer gets on with what keeps it from the event loop, as all that it does after a reload
/// until it waits for events again: many groups, or a slow machine, make that long.
pub fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        failed(&error);
    }
}

/// Steering goes on without.
fn failed(error: &io::Error) {
    message(&format!(
        "warning: NOTIFY_SOCKET can't be told how steer stands: {error}"
    ));
}
