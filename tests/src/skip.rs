//! Tests that can't run here: each says why, and where all of them must run it is a failure.

use std::{
    env, fmt,
    fs::OpenOptions,
    io::{self, Write as _},
};

use anyhow::{Context as _, bail};

/// The variable that names a file to which a line is appended for each test that is skipped: the runner's
/// summary.
const SUMMARY: &str = "STEER_TESTS_SKIPPED";

/// Why a test can't run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// A program isn't installed.
    Program {
        /// The command.
        name: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel lacks something.
    Kernel {
        /// What it lacks.
        lacks: &'static str,
    },
    /// There is no earlier version to upgrade from.
    OldVersion,
    /// A package of a registry couldn't be installed.
    Install {
        /// The package.
        package: &'static str,
        /// What the installer said.
        why: String,
    },
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { name, package } => {
                write!(f, "no {name} here (Debian package {package})")
            }
            Self::Kernel { lacks } => write!(f, "this kernel lacks {lacks}"),
            Self::OldVersion => write!(
                f,
                "STEER_OLD_BIN names no earlier version (`cargo xtask test --test upgrade` builds one from the history of the \
                 repository)"
            ),
            Self::Install { package, why } => write!(f, "failed to install {package}: {why}"),
        }
    }
}

/// Reports that `test` is skipped. A test returns this function's result.
///
/// # Errors
/// Where `STEER_TESTS_MUST_RUN=1` or `CI=true` say that every test must run.
pub fn skip(test: &str, reason: &Skip) -> anyhow::Result<()> {
    if must_run(|name| env::var(name).ok()) {
        bail!("{test} must run here, but {reason}");
    }
    // Past libtest's capture, which would hide it from a run that passes.
    writeln!(io::stderr(), "SKIPPED {test}: {reason}")?;
    if let Some(file) = env::var_os(SUMMARY) {
        let mut summary = OpenOptions::new()
            .append(true)
            .open(file)
            .context("failed to open the summary")?;
        let reason = reason.to_string().replace('\n', " ");
        summary.write_all(format!("{test}: {reason}\n").as_bytes())?;
    }
    Ok(())
}

fn must_run(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name, value| variable(name).as_deref() == Some(value);
    is("STEER_TESTS_MUST_RUN", "1") || is("CI", "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_variables_forbid_a_skip() {
        assert!(must_run(|name| (name == "CI").then(|| "true".to_owned())));
        assert!(must_run(
            |name| (name == "STEER_TESTS_MUST_RUN").then(|| "1".to_owned())
        ));
        assert!(!must_run(|_| None));
        assert!(!must_run(|_| Some("0".to_owned())));
    }
}
