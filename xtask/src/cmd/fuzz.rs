//! `cargo xtask fuzz`

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::{command, debian, packages, say, workspace};

/// Coverage as libFuzzer wants it, and the address sanitizer. These are the flags of cargo-fuzz.
const FLAGS: [&str; 10] = [
    "--cfg=fuzzing",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cforce-frame-pointers",
    "-Zsanitizer=address",
];

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Fuzz only this target: the name of a directory in tests/fuzz/seeds
    target: Option<String>,
    /// For how many seconds each target runs
    #[arg(long, default_value_t = 600)]
    seconds: u32,
}

/// Builds the targets and runs each of them. Inputs that found new code stay in
/// target/fuzz/corpus.
pub(crate) fn fuzz(args: &FuzzArgs) -> Result<()> {
    if debian::is_here() {
        debian::install(&packages::FUZZ)?;
    }
    let targets = targets(args.target.as_deref())?;
    let programs = build()?;
    let mut failed = Vec::new();
    for target in &targets {
        say::step(format_args!("fuzzing {target} for {} s", args.seconds));
        if let Err(error) = run(&programs, target, args.seconds) {
            say::step(format_args!("{target}: {error:#}"));
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!(
            "findings in {}: see {}",
            failed.join(", "),
            artifacts_dir().display()
        );
    }
    Ok(())
}

/// The targets are the directories of seeds.
fn targets(only: Option<&str>) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(seeds_dir()).context("failed to list the targets")? {
        targets.extend(entry?.file_name().into_string());
    }
    targets.sort_unstable();
    let Some(only) = only else { return Ok(targets) };
    if !targets.iter().any(|target| target == only) {
        bail!("there is no target {only}, but {}", targets.join(", "));
    }
    Ok(vec![only.to_owned()])
}

/// Builds every target's program, and returns their directory.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let target_dir = fuzz_dir();
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo
        .current_dir(workspace::root().join("tests/fuzz/libfuzzer"))
        // The compiler may be a stable one, and sanitizers are not stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        // No target runs a kernel program.
        .env("STEER_SKIP_EBPF", "1")
        // If a target is named, build scripts and macros are built without the flags.
        .args(["build", "--locked", "--release", "--bins", "--target"])
        .arg(&host)
        .arg("--target-dir")
        .arg(&target_dir);
    command::run(&mut cargo).context("failed to build the fuzz targets")?;
    Ok(target_dir.join(host).join("release"))
}

/// The platform that the compiler itself runs on.
fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = command::output(Command::new(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc doesn't tell its host")?.to_owned())
}

fn run(programs: &Path, target: &str, seconds: u32) -> Result<()> {
    let corpus = fuzz_dir().join("corpus").join(target);
    let artifacts = artifacts_dir().join(target);
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    }
    let mut program = Command::new(programs.join(target));
    program
        .arg(&corpus)
        .arg(seeds_dir().join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        // A parser that takes seconds or tens of megabytes for a few kilobytes is wrong.
        .args(["-timeout=5", "-rss_limit_mb=1024", "-malloc_limit_mb=64"])
        .args(["-print_final_stats=1", "-use_value_profile=1"]);
    command::run(&mut program)
}

fn seeds_dir() -> PathBuf {
    workspace::root().join("tests/fuzz/seeds")
}

fn fuzz_dir() -> PathBuf {
    workspace::root().join("target/fuzz")
}

fn artifacts_dir() -> PathBuf {
    fuzz_dir().join("artifacts")
}
