//! `cargo xtask bare`: runs the commands of the README in a Debian 12 that has nothing. This shows
//! that `packages` names all that they need.
//!
//! debootstrap makes the system below the clone's `target`. The system gets a C linker, rustup
//! with its stable toolchain (this machine's, read-only), and a copy of the clone without what was
//! built in it. In a mount namespace the system is the root, so that the tests can make namespaces
//! of their own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use xtask::{command, debian, packages, say, workspace};

use crate::cmd::passed_on;

const ENTER: &str = include_str!("enter.sh");

/// What is run if no other command is given.
const ALL: &str = "cargo xtask test && cargo xtask demo";

/// Where the bare system's programs are.
const PATH: &str = "/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments of `cargo xtask bare`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A shell's command line to run instead, in the copy of the clone
    #[arg(default_value = ALL, value_name = "COMMAND")]
    command: String,
    /// Keep the system that the last run left, and what was built in it
    #[arg(long)]
    again: bool,
    /// Where Debian's packages come from
    #[arg(long, default_value = "http://deb.debian.org", value_name = "URL")]
    mirror: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = workspace::root().join("target/bare");
    let toolchain = toolchain()?;
    if !args.again {
        make(&root, &args.mirror)?;
        equip(&root, &toolchain)?;
    }
    say::step("copying the clone");
    as_root_shell(
        "mkdir -p \"$2\" && cd \"$1\" && git ls-files -z --cached --others --exclude-standard \
         | tar --create --null --files-from=- | tar --extract --directory=\"$2\"",
        &[workspace::root(), &root.join("root/steer")],
    )?;
    say::step(format_args!("running in the bare system: {}", args.command));
    enter(&root, &toolchain, &args.command)
}

/// Makes a system with nothing but what every Debian has, and the sources of packages that
/// Debian's installer sets up.
fn make(root: &Path, mirror: &str) -> Result<()> {
    debian::install(&packages::BARE)?;
    as_root_shell("rm -rf --one-file-system \"$1\"", &[root])?;
    fs::create_dir_all(root.parent().unwrap_or(root))?;
    say::step("making a bare Debian 12");
    let mut debootstrap = command::as_root("debootstrap")?;
    debootstrap
        .arg("--variant=minbase")
        .arg(format!("--include={}", packages::BEFORE.join(",")))
        .arg("bookworm")
        .arg(root)
        .arg(format!("{mirror}/debian"));
    command::output(&mut debootstrap)?;
    let sources = format!(
        "deb {mirror}/debian bookworm main\n\
         deb {mirror}/debian bookworm-updates main\n\
         deb {mirror}/debian-security bookworm-security main\n"
    );
    write(&root.join("etc/apt/sources.list"), &sources)
}

/// Adds what a user has who follows the README, and this machine's way to the network.
fn equip(root: &Path, toolchain: &Path) -> Result<()> {
    let name = toolchain.file_name().unwrap_or_default().display();
    let settings =
        format!("version = \"12\"\ndefault_toolchain = \"{name}\"\nprofile = \"minimal\"\n");
    let cargo = home("CARGO_HOME", ".cargo")?;
    as_root_shell(
        "mkdir -p \"$1/root/.cargo\" \"$1/root/.rustup\" && cp -a \"$2/bin\" \"$1/root/.cargo\" \
         && for file in config config.toml; do \
              if [ -e \"$2/$file\" ]; then cp \"$2/$file\" \"$1/root/.cargo\"; fi; done \
         && cp -L /etc/resolv.conf /etc/hosts \"$1/etc\" \
         && cp -a /usr/local/share/ca-certificates \"$1/usr/local/share\" \
         && chroot \"$1\" update-ca-certificates >/dev/null",
        &[root, &cargo],
    )?;
    write(&root.join("root/.rustup/settings.toml"), &settings)
}

fn enter(root: &Path, toolchain: &Path, line: &str) -> Result<()> {
    let mut enter = command::as_root("unshare")?;
    enter
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
        ])
        .args([root, toolchain])
        .args(["env", "--ignore-environment", "HOME=/root", "LANG=C.UTF-8"])
        .args(passed_on())
        .arg(format!("PATH={PATH}"))
        // With this variable a test fails if it would be left out because something isn't here.
        // Such tests are what this command looks for.
        .arg("STEER_TESTS_MUST_RUN=1")
        .args(["sh", "-c", line]);
    command::run(&mut enter)
}

/// The directory of rustup's stable toolchain.
fn toolchain() -> Result<PathBuf> {
    let rustup = command::find("rustup").context("there is no rustup")?;
    let cargo =
        command::output(Command::new(rustup).args(["which", "--toolchain", "stable", "cargo"]))?;
    let toolchain = Path::new(cargo.trim()).ancestors().nth(2);
    Ok(toolchain
        .context("rustup's cargo is in no toolchain")?
        .to_owned())
}

/// The directory of rustup's programs and of cargo's settings.
fn home(variable: &str, usual: &str) -> Result<PathBuf> {
    if let Some(home) = env::var_os(variable) {
        return Ok(home.into());
    }
    let home = env::home_dir().context("there is no home directory")?;
    let directory = home.join(usual);
    ensure!(directory.is_dir(), "there is no {}", directory.display());
    Ok(directory)
}

fn as_root_shell(script: &str, args: &[&Path]) -> Result<()> {
    let mut shell = command::as_root("sh")?;
    shell.args(["-c", script, "sh"]).args(args);
    command::run(&mut shell)
}

/// Writes a file of the bare system, which is root's.
fn write(file: &Path, contents: &str) -> Result<()> {
    let mut tee = command::as_root("sh")?;
    tee.args(["-c", "printf %s \"$2\" >\"$1\"", "sh"])
        .arg(file)
        .arg(contents);
    command::run(&mut tee)
}
