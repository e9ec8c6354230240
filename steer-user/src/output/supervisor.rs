//! Tells the supervisor that started steer how steer stands, by systemd's notification protocol,
//! sd_notify(3). Without `NOTIFY_SOCKET` in the environment, nothing is told.

use std::{io, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::output::print::message;

/// Remembers the last status, so that nothing is told twice.
#[derive(Debug, Default)]
pub struct Supervisor {
    status: String,
}

impl Supervisor {
    /// Says that steer has started or reloaded, and does all that it is to do.
    pub fn ready(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Says in a line what steer does.
    pub fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            tell(&[NotifyState::Status(status)]);
        }
    }

    /// Says that steer is about to reload. [`Supervisor::ready`] says that the reload is over.
    /// Either this steer calls it, or the one that is executed.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => failed(&error),
        }
    }

    /// Says that steer is about to end.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// Shows a watchdog that the event loop runs. Without a watchdog it does nothing.
#[derive(Debug)]
pub struct Heartbeat(Option<Interval>);

impl Heartbeat {
    /// Beats twice as often as the watchdog wants, which `WATCHDOG_USEC` tells. Needs a runtime.
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

    /// Waits for the next beat, and gives it. If there is no watchdog, waits for ever. The caller
    /// may drop this future at any time.
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

/// Shows a watchdog that steer is alive while it is not in the event loop. That is so after a
/// reload, until steer waits for events again. With many groups, or on a slow machine, this takes
/// long.
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

/// Says that the supervisor can't be told. Steering goes on without that.
fn failed(error: &io::Error) {
    message(&format!(
        "warning: NOTIFY_SOCKET can't be told steer's status: {error}"
    ));
}
