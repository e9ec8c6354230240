//! Bun and PM2, installed by npm below the clone's `target`.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use steer_tests::skip::Skip;

use super::servers::{file, program};

/// What is installed.
const PACKAGES: &str = "bun and pm2";

/// Programs that npm installed.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The binary.
    pub(crate) bun: PathBuf,
    /// A script for Node.
    pub(crate) pm2: PathBuf,
}

impl Programs {
    /// Installs what `package-lock.json` says, unless that has been done.
    pub(crate) fn install() -> Result<Self, Skip> {
        let npm = program("npm", "npm")?;
        program("node", "nodejs")?;
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers");
        let failed = |error: io::Error| failure(error.to_string());
        let lock = fs::read(file("package-lock.json")).map_err(failed)?;
        // Written last, so that an installation that was interrupted is begun again.
        let done = target.join("installed");
        if fs::read(&done).ok().as_ref() != Some(&lock) {
            fs::create_dir_all(&target).map_err(failed)?;
            for name in ["package.json", "package-lock.json"] {
                fs::copy(file(name), target.join(name)).map_err(failed)?;
            }
            run_npm(&npm, &target)?;
            fs::write(&done, &lock).map_err(failed)?;
            give_to_owner_of(&file("package.json"), &target).map_err(failed)?;
        }
        let bin = target.join("node_modules/.bin").canonicalize();
        let bin = bin.map_err(failed)?;
        Ok(Self {
            bun: bin.join("bun"),
            pm2: bin.join("pm2"),
        })
    }
}

fn run_npm(npm: &Path, target: &Path) -> Result<(), Skip> {
    writeln!(io::stderr(), "installing {PACKAGES} with npm").ok();
    let output = Command::new(npm)
        .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(target)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failure(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failure(format!("npm ended with {}: {said}", output.status)))
}

/// The tests run as root; the clone is somebody's who wants to be able to delete it.
fn give_to_owner_of(reference: &Path, target: &Path) -> io::Result<()> {
    let mut like = OsString::from("--reference=");
    like.push(reference);
    let status = Command::new("chown")
        .args(["--recursive", "--no-dereference"])
        .arg(like)
        .arg(target)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("chown ended with {status}")))
    }
}

fn failure(why: String) -> Skip {
    Skip::Install {
        package: PACKAGES,
        why,
    }
}
