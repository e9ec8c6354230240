//! PM2's daemon.

use std::{ffi::OsStr, process::Command};

use crate::{PORT, steer::run};
use anyhow::ensure;

use super::npm::Programs;

/// Where PM2 keeps its state: `/run` is the test's own.
const HOME: &str = "/run/pm2";

/// PM2's daemon with its workers, in the namespaces of the test. Killed when dropped.
#[derive(Debug)]
pub struct Pm2<'a> {
    programs: &'a Programs,
    environment: Vec<(&'a str, String)>,
}

impl<'a> Pm2<'a> {
    /// Starts what a config of `tests/servers` says, which finds in its environment the port, and
    /// more.
    ///
    /// # Errors
    /// When PM2 can't be started, or not well.
    pub fn start(
        programs: &'a Programs,
        config: &str,
        environment: Vec<(&'a str, String)>,
    ) -> anyhow::Result<Self> {
        // First, so that a daemon whose start went wrong is ended too.
        let pm2 = Self {
            programs,
            environment,
        };
        let config = super::file(config);
        pm2.run(&["start".as_ref(), config.as_os_str()])?;
        Ok(pm2)
    }

    /// Runs `pm2` with arguments.
    ///
    /// # Errors
    /// When it doesn't end well.
    pub fn run(&self, args: &[&OsStr]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.pm2);
        command
            .args(args)
            .env("PORT", PORT.to_string())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("BUN", &self.programs.bun)
            .env("PM2_HOME", HOME)
            .env("PM2_DISABLE_VERSION_CHECK", "true");
        let finished = run(command)?;
        ensure!(finished.code == Some(0), "pm2 {args:?}: {finished:?}");
        Ok(())
    }
}

impl Drop for Pm2<'_> {
    fn drop(&mut self) {
        // Where it fails, the room kills the daemon with all else that is left.
        drop(self.run(&["kill".as_ref()]));
    }
}
