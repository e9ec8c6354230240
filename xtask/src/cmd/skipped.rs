//! Which tests were skipped, and why. This is printed at the end, where nobody overlooks it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use xtask::{say, workspace};

/// The variable that names the file to which tests append a line when they are skipped.
pub(crate) const VARIABLE: &str = "STEER_TESTS_SKIPPED";

/// The path of that file, relative to the workspace.
const FILE: &str = "target/skipped-tests";

/// Empties the file, and returns it. The tests append to the file as root, and its owner stays the
/// same.
pub(crate) fn begin() -> Result<PathBuf> {
    let file = workspace::root().join(FILE);
    fs::write(&file, "").with_context(|| format!("failed to write {}", file.display()))?;
    Ok(file)
}

/// Prints how many tests were to be run, and for each test that was skipped why it was.
pub(crate) fn report(file: &Path, tests: usize, modules: usize) -> Result<()> {
    let skipped =
        fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    say::step(format_args!(
        "{tests} tests of {modules} modules that need root: {} skipped",
        skipped.lines().count()
    ));
    for line in skipped.lines() {
        say::step(format_args!("skipped: {line}"));
    }
    Ok(())
}
