//! Runs several modules of tests at a time.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write as _},
    num::NonZero,
    panic::resume_unwind,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use xtask::{command, say, workspace};

/// Where the output of each program goes until it has ended, relative to the workspace.
const OUTPUT: &str = "target/test-output";

/// Runs the commands, `jobs` at a time, and returns those that failed, and how.
///
/// If several run at a time, the output of each is printed after it has ended. If one runs at a
/// time, it prints by itself.
pub(crate) fn side_by_side(
    commands: Vec<(&str, Command)>,
    jobs: NonZero<usize>,
) -> Result<Vec<String>> {
    let directory = workspace::root().join(OUTPUT);
    fs::create_dir_all(&directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    let jobs = jobs.get().min(commands.len());
    let waiting = Mutex::new(VecDeque::from(commands));
    let next = || lock(&waiting).pop_front();
    // The lock is also held while something is printed, so that nothing is printed in between.
    let failed = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        while let Some((name, mut command)) = next() {
            let status = if jobs == 1 {
                say::step(format_args!("tests of {name}"));
                status(&mut command)?
            } else {
                let file = directory.join(name);
                let status = into_file(&mut command, &file)?;
                let _one = lock(&failed);
                say::step(format_args!("tests of {name}"));
                let printed = File::open(&file)
                    .and_then(|mut printed| io::copy(&mut printed, &mut io::stdout()))
                    .and_then(|_| io::stdout().flush());
                printed.context("failed to print what the tests have printed")?;
                status
            };
            if !status.success() {
                lock(&failed).push(format!("{name}: {status}"));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs a command with its output in a file. The output is no pipe, because what a test leaves
/// behind may have it open for longer than the test runs.
fn into_file(command: &mut Command, path: &Path) -> Result<ExitStatus> {
    let create = || format!("failed to write {}", path.display());
    let file = File::create(path).with_context(create)?;
    let same = file.try_clone().with_context(create)?;
    status(command.stdin(Stdio::null()).stdout(file).stderr(same))
}

fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("failed to start {}", command::line(command)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
