//! Programs that npm installs below the clone's `target`, such as Bun and PM2.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::skip::Skip;
use rustix::fs::{FlockOperation, flock};

use super::{file, program};

/// What is installed.
#[derive(Clone, Copy, Debug)]
pub struct Packages {
    /// The directory of npm's files in `tests/servers`; empty for that one itself.
    pub directory: &'static str,
    /// Where it is installed below `target`.
    pub target: &'static str,
    /// What they are called.
    pub names: &'static str,
}

const BUN: Packages = Packages {
    directory: "",
    target: "servers",
    names: "bun and pm2",
};

/// Programs that npm installed.
#[derive(Debug)]
pub struct Programs {
    /// The binary.
    pub bun: PathBuf,
    /// A script for Node.
    pub pm2: PathBuf,
}

impl Programs {
    /// Installs them.
    ///
    /// # Errors
    /// Why they can't be.
    pub fn install() -> Result<Self, Skip> {
        program("node", "nodejs")?;
        let modules = BUN.install()?;
        let bin = modules.join(".bin").canonicalize();
        let bin = bin.map_err(|error| BUN.failure(error.to_string()))?;
        Ok(Self {
            bun: bin.join("bun"),
            pm2: bin.join("pm2"),
        })
    }
}

impl Packages {
    /// Installs what its `package-lock.json` says, unless that has been done; returns where the modules are.
    ///
    /// # Errors
    /// Why it can't be.
    pub fn install(self) -> Result<PathBuf, Skip> {
        let npm = program("npm", "npm")?;
        let source = file(self.directory);
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let target = target.join(self.target);
        let failed = |error: io::Error| self.failure(error.to_string());
        let wanted = fs::read(source.join("package-lock.json")).map_err(failed)?;
        fs::create_dir_all(&target).map_err(failed)?;
        // Several files of tests run at once. Held until this returns.
        let directory = File::open(&target).map_err(failed)?;
        flock(&directory, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        // Written last, so that an installation that was interrupted is begun again.
        let done = target.join("installed");
        if fs::read(&done).ok().as_ref() != Some(&wanted) {
            for name in ["package.json", "package-lock.json"] {
                fs::copy(source.join(name), target.join(name)).map_err(failed)?;
            }
            self.run_npm(&npm, &target)?;
            fs::write(&done, &wanted).map_err(failed)?;
            give_to_owner_of(&source.join("package.json"), &target).map_err(failed)?;
        }
        Ok(target.join("node_modules"))
    }

    fn run_npm(self, npm: &Path, target: &Path) -> Result<(), Skip> {
        writeln!(io::stderr(), "installing {} with npm", self.names).ok();
        let output = Command::new(npm)
            .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(target)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| self.failure(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(self.failure(format!("npm ended with {}: {said}", output.status)))
    }

    fn failure(self, why: String) -> Skip {
        Skip::Install {
            package: self.names,
            why,
        }
    }
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
