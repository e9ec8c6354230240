//! Debian's kernels for virtual machines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use xtask::say;

use super::{
    packages::{self, Packages},
    version::{Series, Version},
};

/// How the names of the packages of images begin. From 6.19 on the image is in the other package.
const PACKAGES: [&str; 2] = ["linux-binary-", "linux-image-"];

/// How the name of the package of modules begins, which exists if the image's package has no
/// modules.
const MODULES_PACKAGE: &str = "linux-modules-";

/// The flavour of kernels that has the drivers of virtual machines built in.
const FLAVOUR: &str = "-cloud-amd64";

/// The modules that steer needs and that Debian doesn't build in, in the order in which they are
/// loaded. A usual system loads them by itself.
const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "udp_diag"];

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// The release, as `uname -r` says it.
    pub(super) release: String,
    /// The release's version, which can be compared.
    pub(super) version: Version,
    /// The directory of the kernel's files.
    directory: PathBuf,
}

impl Kernel {
    /// The file of the kernel's image.
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The modules that aren't built in, in the order in which they are loaded.
    pub(super) fn modules(&self) -> Vec<PathBuf> {
        let files = MODULES.iter().flat_map(|name| {
            // The modules of newer kernels are compressed.
            ["ko", "ko.xz"].map(|suffix| self.directory.join(format!("{name}.{suffix}")))
        });
        files.filter(|file| file.exists()).collect()
    }
}

/// The newest kernel of a series that is in `target/vm`. If there is none, the newest that Debian
/// has is unpacked. Exact versions vanish from Debian's archive after a while, so what is here
/// comes first.
pub(super) fn install(packages: &Packages, series: Series) -> Result<Kernel> {
    let directory = packages.directory().join("kernels");
    fs::create_dir_all(&directory)?;
    if let Some(kernel) = newest_here(&directory, series)? {
        return Ok(kernel);
    }
    let (package, release) = newest_of_debian(packages, series)?
        .with_context(|| format!("Debian has no kernel {series} for virtual machines"))?;
    say::step(format_args!("unpacking Linux {release}"));
    // The directory is moved to its place when it is complete.
    let unpacked = directory.join("unpacked");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::create_dir_all(&unpacked)?;
    let modules_package = format!("{MODULES_PACKAGE}{release}");
    let mut all = vec![package];
    all.extend(
        packages
            .names(&modules_package)?
            .into_iter()
            .filter(|name| *name == modules_package),
    );
    let modules = MODULES.map(|name| format!("*/{name}.ko*"));
    let patterns = [
        "./boot/vmlinuz-*",
        "*/modules/*/vmlinuz",
        &modules[0],
        &modules[1],
        &modules[2],
    ];
    for package in all {
        let file = packages.download(&package)?;
        packages::unpack_flat(&file, &patterns, &unpacked)?;
        fs::remove_file(&file)?;
    }
    let image = unpacked.join("vmlinuz");
    if !image.exists() {
        fs::rename(unpacked.join(format!("vmlinuz-{release}")), image)
            .with_context(|| format!("the packages of Linux {release} have no image"))?;
    }
    fs::rename(&unpacked, directory.join(&release))?;
    newest_here(&directory, series)?.context("the kernel was unpacked and isn't there")
}

fn newest_here(directory: &Path, series: Series) -> Result<Option<Kernel>> {
    let mut newest: Option<Kernel> = None;
    for file in fs::read_dir(directory)? {
        let file = file?;
        let Ok(release) = file.file_name().into_string() else {
            continue;
        };
        let version = Version::new(&release);
        let newer = newest
            .as_ref()
            .is_none_or(|newest| newest.version < version);
        if series.contains(&version) && newer {
            newest = Some(Kernel {
                release,
                version,
                directory: file.path(),
            });
        }
    }
    Ok(newest)
}

/// The package of the newest kernel of a series, and the release that is in the package.
fn newest_of_debian(packages: &Packages, series: Series) -> Result<Option<(String, String)>> {
    for prefix in PACKAGES {
        let names = packages.names(prefix)?;
        let releases = names.iter().filter_map(|name| {
            let release = name.strip_prefix(prefix)?;
            // Other packages of the flavour are unsigned, or only depend on the newest kernel.
            let exact = release.starts_with(|c: char| c.is_ascii_digit())
                && release.ends_with(FLAVOUR)
                && release.matches('.').count() > 1;
            let version = Version::new(release);
            (exact && series.contains(&version)).then_some((version, name, release))
        });
        if let Some((_, name, release)) = releases.max() {
            return Ok(Some((name.clone(), release.to_owned())));
        }
    }
    Ok(None)
}
