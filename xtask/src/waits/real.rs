//! The program that measures.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use steer_common::{policy::Policy, sim::ms};
use xtask::command;

use crate::cmd;

/// The program that measures, in the package of the privileged tests.
const WAITS: &str = "steer-waits";

/// The program that measures, with what is the same for every run.
pub(super) struct Program {
    file: PathBuf,
    steer: PathBuf,
    workers: usize,
}

/// What one run measured.
pub(super) struct Report {
    /// For how many nanoseconds each connection's first request waited.
    pub(super) first: Vec<Option<u64>>,
    /// The overhead: milliseconds on top of a request's service time, in the mean.
    pub(super) overhead: f64,
    /// How many requests the overhead is the mean of.
    overhead_of: u64,
    /// 99 % of the connections came less late than this many milliseconds.
    pub(super) late: f64,
    /// How many connections were given to a worker that had something to do while another worker
    /// had nothing to do.
    pub(super) misplaced: u64,
    ends: BTreeMap<String, u64>,
    broken: Vec<String>,
    /// How many connections steer left to the kernel's hash; none if there was no steer.
    hashed: Option<u64>,
}

impl Program {
    pub(super) fn build(workers: usize) -> Result<Self> {
        Ok(Self {
            steer: cmd::build()?,
            file: cmd::privileged_program(WAITS)?,
            workers,
        })
    }

    /// Runs the program on the connections of a file, under the kernel's hash unless a policy is
    /// given.
    pub(super) fn run(&self, arrivals: &Path, policy: Option<Policy>) -> Result<Report> {
        // The variable goes through `env`, because sudo drops it.
        let mut measure = command::as_root("/usr/bin/env")?;
        measure
            // With RUST_BACKTRACE one line of an error would become fifty.
            .args(["-u", "RUST_BACKTRACE"])
            .arg(format!("STEER_BIN={}", self.steer.display()))
            .arg(&self.file)
            .args(["run", "--workers", &self.workers.to_string(), "--arrivals"])
            .arg(arrivals);
        if let Some(policy) = policy {
            measure.args(["--policy", policy.name()]);
        }
        let output = command::output(&mut measure)?;
        let report: Value = serde_json::from_str(&output).context("failed to read the report")?;
        Report::read(&report).context("something is missing in the report")
    }
}

impl Report {
    fn read(report: &Value) -> Option<Self> {
        let first = report["first"].as_array()?;
        let ends = report["ends"].as_object()?;
        let broken = report["broken"].as_array()?;
        Some(Self {
            first: first.iter().map(Value::as_u64).collect(),
            overhead: report["overhead"]["mean"].as_f64()? * ms(1),
            overhead_of: report["overhead"]["requests"].as_u64()?,
            late: ms(report["late_p99"].as_u64()?),
            misplaced: report["misplaced"].as_u64()?,
            ends: ends
                .iter()
                .map(|(end, count)| Some((end.clone(), count.as_u64()?)))
                .collect::<Option<_>>()?,
            broken: broken.iter().map(Value::to_string).collect(),
            hashed: report["steered"]["hashed"].as_u64(),
        })
    }

    /// The overhead in ms. Fails if there were too few requests to measure it.
    pub(super) fn overhead(&self) -> Result<f64> {
        if self.overhead_of < 100 {
            bail!("only {} requests waited for another one", self.overhead_of);
        }
        Ok(self.overhead)
    }

    /// All that was not as it should be, in words.
    pub(super) fn failures(&self, connections: usize) -> impl Iterator<Item = String> {
        let ended: u64 = self.ends.values().sum();
        let unaccounted = (ended != connections as u64)
            .then(|| format!("{connections} connections and {ended} ends"));
        let bad = self
            .ends
            .iter()
            .filter(|(end, _)| !["served", "cut"].contains(&end.as_str()))
            .map(|(end, count)| format!("{count} connections {end} {}", self.broken.join(", ")));
        let hashed = self
            .hashed
            .filter(|hashed| *hashed > 0)
            .map(|hashed| format!("{hashed} connections left to the kernel's hash"));
        unaccounted.into_iter().chain(bad).chain(hashed)
    }
}
