//! The version that upgrades are tested from, built from the repository's history.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use xtask::{command, say, workspace};

/// The last commit whose maps have layout 4.
const COMMIT: &str = "dd6b1a3c5772c7f6e5eceef319fd17fc170e7a24";

/// The module of the tests that need the old version.
pub(crate) const TESTS: &str = "upgrade";

/// The file of the old version's steer. It is built once for each clone, and only if that is
/// wanted, because the build takes minutes. None if it isn't wanted, or if the clone's history
/// doesn't go back that far.
pub(crate) fn old(is_wanted: bool) -> Result<Option<PathBuf>> {
    let dir = workspace::root().join("target/old").join(&COMMIT[..12]);
    // The old version has a target directory of its own. Otherwise cargo would take packages of
    // this checkout for packages of the old one.
    let build = dir.join("build");
    let steer = build.join("debug/steer");
    if command::is_program(&steer) {
        return Ok(Some(steer));
    }
    if !is_wanted {
        say::step(format_args!(
            "upgrades aren't tested: `cargo xtask test --test {TESTS}` builds the version to upgrade from first"
        ));
        return Ok(None);
    }
    if !has_commit() {
        say::step(format_args!(
            "no commit {} in the history of this clone: upgrades from that version aren't tested",
            &COMMIT[..12]
        ));
        return Ok(None);
    }
    say::step(format_args!("building the version to upgrade from"));
    let source = dir.join("source");
    unpack(&dir, &source).context("failed to get the version to upgrade from")?;
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo
        .current_dir(&source)
        .args(["build", "--locked", "--package", "steer-user"])
        // The old steer is run only a few times.
        .args(["--config", "profile.dev.debug=false"])
        .args(["--config", "profile.dev.package.'*'.opt-level=0"])
        .args(["--config", "profile.dev.package.aya-obj.opt-level=2"])
        .args(["--config", "profile.dev.package.object.opt-level=2"])
        .arg("--target-dir")
        .arg(&build);
    command::run(&mut cargo)?;
    Ok(Some(steer))
}

fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(workspace::root());
    git
}

fn has_commit() -> bool {
    let mut git = git();
    git.args(["cat-file", "-e", &format!("{COMMIT}^{{commit}}")]);
    git.stderr(Stdio::null());
    git.status().is_ok_and(|status| status.success())
}

fn unpack(dir: &Path, source: &Path) -> Result<()> {
    if source.exists() {
        fs::remove_dir_all(source)?;
    }
    let target = source.join("target");
    fs::create_dir_all(&target)?;
    let archive = dir.join("source.tar");
    let mut git = git();
    git.args(["archive", "--format=tar", "-o"]);
    command::run(git.arg(&archive).arg(COMMIT))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(source);
    command::run(&mut tar)?;
    fs::remove_file(&archive)?;
    // The tools that were installed for this checkout do for the old one.
    symlink(workspace::tools_dir(), target.join("tools"))?;
    Ok(())
}
