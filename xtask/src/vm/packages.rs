//! Debian's packages, looked up and unpacked by an apt with a configuration of its own. The
//! system's sources, lists and packages stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{command, debian, say};

/// The file that says what is installed on this system.
pub(super) const INSTALLED: &str = "/var/lib/dpkg/status";

/// The apt, and the directory into which it unpacks.
pub(super) struct Packages {
    /// The value of `APT_CONFIG` for the apt.
    config: PathBuf,
    /// The directory of all that belongs to the apt.
    root: PathBuf,
    /// The codename of this system's release, such as `bookworm`.
    pub(super) codename: String,
}

impl Packages {
    /// Sets the apt up below `directory`. Its lists are fetched when something is looked up first.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        ensure!(
            debian::is_here(),
            "the kernels are Debian's, and this system has no apt"
        );
        let root = directory.join("apt");
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            let part = root.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("failed to make {}", part.display()))?;
        }
        let codename = codename()?;
        let packages = Self {
            config: root.join("apt.conf"),
            root,
            codename,
        };
        packages.configure()?;
        Ok(packages)
    }

    /// The `directory` that [`Self::new`] was called with.
    pub(super) fn directory(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// The names of all packages that begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.update_once()?;
        let names = command::output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads the newest version of a package, and returns the file.
    pub(super) fn download(&self, package: &str) -> Result<PathBuf> {
        self.update_once()?;
        let directory = self.root.join("debs").join(package);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let mut download = self.apt("apt-get");
        // apt-get downloads into the current directory. This process' own one may be writable by
        // nobody but root.
        download
            .args(["--quiet", "download", package])
            .current_dir(&directory);
        command::output(&mut download)?;
        only_file(&directory).with_context(|| format!("apt-get downloaded no {package}"))
    }

    /// Downloads packages of a release and all packages that they need, and unpacks them into `to`
    /// without installing them. Packages that `installed` lists as installed aren't downloaded.
    /// `installed` is a file like dpkg's `status`.
    pub(super) fn unpack_with_needs(
        &self,
        of: &str,
        names: &[&str],
        installed: &Path,
        to: &Path,
    ) -> Result<()> {
        self.update_once()?;
        let archives = self.root.join("cache/archives");
        let mut install = self.apt("apt-get");
        install
            .arg("--option")
            .arg(format!("Dir::State::status={}", installed.display()))
            .args(["--quiet", "--yes", "--download-only"])
            .args(["--no-install-recommends", "--target-release", of, "install"])
            .args(names);
        command::output(&mut install)?;
        fs::create_dir_all(to)?;
        for file in fs::read_dir(&archives)? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                unpack(&file, &["--keep-directory-symlink"], &[], to)?;
                fs::remove_file(&file)?;
            }
        }
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        let root = self.root.display();
        let sources = self.root.join("sources.list");
        let config = format!(
            "Dir::State \"{root}\";\n\
             Dir::State::lists \"{root}/lists\";\n\
             Dir::State::status \"{INSTALLED}\";\n\
             Dir::Cache \"{root}/cache\";\n\
             Dir::Etc::sourcelist \"{root}/sources.list\";\n\
             Dir::Etc::sourceparts \"{root}/parts\";\n\
             Dir::Etc::preferences \"{root}/preferences\";\n\
             Dir::Etc::preferencesparts \"{root}/parts\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             Acquire::Check-Valid-Until \"false\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Sandbox::User \"\";\n\
             Debug::NoLocking \"true\";\n"
        );
        fs::write(&self.config, config)?;
        let main = Self::mirror(&self.codename)?;
        let security = Self::mirror(&format!("{}-security", self.codename))?;
        let line = |mirror: &str, suite: &str| {
            format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"
            )
        };
        let mut list = line(&main, &self.codename);
        // Old kernels get their fixes from the security suites, and new kernels come from
        // backports.
        for suite in ["bullseye-security", "bookworm-security"] {
            list += &line(&security, suite);
        }
        for suite in ["bookworm-backports", "trixie-backports"] {
            list += &line(&main, suite);
        }
        fs::write(&sources, list)?;
        Ok(())
    }

    /// The address from which this system itself gets a suite.
    fn mirror(suite: &str) -> Result<String> {
        let format = "$(CREATED_BY) $(RELEASE) $(REPO_URI)";
        let targets =
            command::output(Command::new("apt-get").args(["indextargets", "--format", format]))?;
        let start = format!("Packages {suite} ");
        match targets.lines().find_map(|line| line.strip_prefix(&start)) {
            Some(mirror) => Ok(mirror.to_owned()),
            None => bail!("apt has no source of {suite}: add it, or run `apt-get update` as root"),
        }
    }

    /// Fetches the lists, once: the first time that something is looked up that isn't here.
    fn update_once(&self) -> Result<()> {
        let done = self.root.join("updated");
        if done.exists() {
            return Ok(());
        }
        say::step("reading Debian's lists of packages");
        command::output(self.apt("apt-get").args(["--quiet", "update"]))?;
        fs::write(&done, "")?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }
}

/// Unpacks the files of a package that match one of tar's patterns into a directory, without the
/// directories that they are in.
pub(super) fn unpack_flat(package: &Path, patterns: &[&str], to: &Path) -> Result<()> {
    // tar complains of patterns that match nothing, and fails because of them.
    let flat = ["--wildcards", "--transform", "s#.*/##"];
    unpack_some(package, &flat, patterns, to).map(|_unmatched| ())
}

fn unpack(package: &Path, options: &[&str], patterns: &[&str], to: &Path) -> Result<()> {
    let status = unpack_some(package, options, patterns, to)?;
    ensure!(
        status.success(),
        "tar failed to unpack {}",
        package.display()
    );
    Ok(())
}

fn unpack_some(
    package: &Path,
    options: &[&str],
    patterns: &[&str],
    to: &Path,
) -> Result<ExitStatus> {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start dpkg-deb")?;
    let archive = files.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .args(options)
        .arg("--directory")
        .arg(to)
        .args(patterns)
        .stdin(archive);
    if !patterns.is_empty() {
        tar.stderr(Stdio::null());
    }
    let status = tar.status().context("failed to start tar")?;
    ensure!(files.wait()?.success(), "dpkg-deb failed");
    Ok(status)
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(directory)?;
    let file = files.next().context("there is none")??;
    Ok(file.path())
}

fn codename() -> Result<String> {
    let release =
        fs::read_to_string("/etc/os-release").context("failed to read /etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release has no VERSION_CODENAME")
}
