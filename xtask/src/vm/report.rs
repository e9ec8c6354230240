//! What came of the runs.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// How many lines of a failed run's output are shown.
const TAIL: usize = 60;

/// A machine's run.
pub(super) struct Run {
    /// The kernel, as `uname -r` says it.
    pub(super) release: String,
    /// The time from QEMU's start to its end.
    took: Duration,
    /// Why the run has no result; none if it has one.
    broken: Option<String>,
    /// When init began, in seconds since the guest's kernel started.
    booted: String,
    /// The line of `steer doctor` about migration.
    migration: String,
    /// How many tests passed and failed.
    passed: u64,
    failed: u64,
    /// Modules of tests.
    modules: u64,
    failed_modules: Vec<String>,
    output: String,
}

impl Run {
    /// Reads what a machine wrote.
    pub(super) fn read(
        release: &str,
        ended: Option<ExitStatus>,
        took: Duration,
        log: &Path,
        console: &Path,
    ) -> Result<Self> {
        let read = |file: &Path| {
            let bytes =
                fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
        };
        let output = read(log)?;
        let mut run = Self::parse(release, &output);
        run.took = took;
        let complete = output.lines().any(|line| line == "vm: end");
        run.broken = match ended {
            None => Some("it took too long".to_owned()),
            Some(status) if !status.success() => Some(format!("QEMU ended with {status}")),
            Some(_) if !complete => Some("it ended before its tests".to_owned()),
            Some(_) => None,
        };
        if run.broken.is_some() {
            run.output += &read(console)?;
        }
        Ok(run)
    }

    fn parse(release: &str, output: &str) -> Self {
        let mut run = Self {
            release: release.to_owned(),
            took: Duration::ZERO,
            broken: None,
            booted: String::new(),
            migration: String::new(),
            passed: 0,
            failed: 0,
            modules: 0,
            failed_modules: Vec::new(),
            output: output.to_owned(),
        };
        for line in output.lines() {
            if let Some(uptime) = line.strip_prefix("vm: init after ") {
                uptime.clone_into(&mut run.booted);
            } else if let Some(module) = line.strip_prefix("vm: passed ") {
                run.modules += u64::from(!module.is_empty());
            } else if let Some(module) = line.strip_prefix("vm: failed ") {
                run.modules += 1;
                run.failed_modules.push(module.to_owned());
            } else if let Some(result) = line.strip_prefix("test result: ") {
                run.passed += count(result, " passed");
                run.failed += count(result, " failed");
            } else if line.contains("migrat") && run.migration.is_empty() {
                line.trim().clone_into(&mut run.migration);
            }
        }
        run
    }

    /// Whether all is well and at least one test passed.
    pub(super) fn passed(&self) -> bool {
        self.broken.is_none() && self.failed_modules.is_empty() && self.passed > 0
    }

    /// What came of the run, in a few words.
    pub(super) fn summary(&self) -> String {
        let mut text = format!(
            "{} tests of {} modules passed, {} failed, {:.0} s",
            self.passed,
            self.modules,
            self.failed,
            self.took.as_secs_f64()
        );
        if !self.failed_modules.is_empty() {
            let _ = write!(text, "; failed: {}", self.failed_modules.join("; "));
        }
        if let Some(why) = &self.broken {
            let _ = write!(text, "; {why}");
        }
        text
    }

    /// The last lines of the output.
    pub(super) fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

/// Prints a table of all runs.
pub(super) fn print(runs: &[Run]) -> Result<()> {
    let mut table = "| Linux | tests passed | failed | booted after | in all | migration |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for run in runs {
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} s | {:.0} s | {} |",
            run.release,
            run.passed,
            if run.passed() {
                "0".to_owned()
            } else {
                format!(
                    "{} {}",
                    run.failed,
                    run.broken.as_deref().unwrap_or_default()
                )
            },
            run.booted,
            run.took.as_secs_f64(),
            run.migration,
        );
    }
    io::stdout().write_all(table.as_bytes())?;
    Ok(())
}

/// The number before these words in a text such as `3 passed; 0 failed`.
fn count(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().unwrap_or_default();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Run;

    const OUTPUT: &str = "\
vm: init after 1.62
off migration   this kernel migrates waiting connections without waking who gets them
vm: running harness
test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
vm: passed harness (3 s)
vm: running bad_input
test result: FAILED. 17 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out
vm: failed bad_input (12 s) with exit status: 101
vm: end
";

    #[test]
    fn tests_are_counted() {
        let run = Run::parse("6.1", OUTPUT);
        assert_eq!((run.passed, run.failed, run.modules), (24, 2, 2));
        assert_eq!(
            run.failed_modules,
            ["bad_input (12 s) with exit status: 101"]
        );
        assert_eq!(run.booted, "1.62");
        assert!(run.migration.contains("without waking"));
        assert!(!run.passed());
    }

    #[test]
    fn no_test_is_no_success() {
        assert!(!Run::parse("6.1", "vm: init after 1\nvm: end\n").passed());
        assert!(Run::parse("6.1", &OUTPUT.replace("vm: failed", "vm: passed")).passed());
    }
}
