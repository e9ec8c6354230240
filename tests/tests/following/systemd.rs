//! steer as the service of docs/operations.md, under a real systemd, which only the machines of
//! `cargo xtask vm` have: there it may be the system's own.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_tests::{
    PORT, census, patience,
    steer::{binary, code, run, status, steer},
    texts,
    workers::{self, local},
};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const DROP_IN: &str = "/run/systemd/system/steer@.service.d/soon.conf";
const INSTANCE: &str = "steer@3000.service";

/// The file that docs/operations.md shows under a comment with its path, put there.
fn install(path: &str) -> anyhow::Result<()> {
    let title = format!("    # {path}\n");
    let (_, rest) = OPERATIONS
        .split_once(&title)
        .with_context(|| path.to_owned())?;
    let lines: Vec<&str> = rest
        .lines()
        .take_while(|line| line.is_empty() || (line.starts_with("    ") && !line.contains("# /")))
        .map(str::trim_start)
        .collect();
    write(path, &lines.join("\n"))
}

fn write(path: &str, text: &str) -> anyhow::Result<()> {
    if let Some(directory) = Path::new(path).parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text).with_context(|| format!("failed to write {path}"))
}

fn command(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(args);
    let ended = run(command)?;
    ensure!(
        ended.code == Some(0),
        "{program} {args:?}: {ended:?}\n{}",
        journal()
    );
    Ok(())
}

fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    command("systemctl", args)
}

/// What systemd's log has of the service, to be shown with a failure.
fn journal() -> String {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--lines=40", "--unit=steer@*"]);
    run(command).map_or_else(|error| error.to_string(), |ended| ended.stdout)
}

/// A property of the service, as systemd has it.
fn property(name: &str) -> anyhow::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--value", "--property", name, INSTANCE]);
    Ok(run(command)?.stdout.trim().to_owned())
}

fn wait_for(name: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    let deadline = Instant::now() + patience::patience(Duration::from_secs(15));
    loop {
        let found = property(name)?;
        if wanted(&found) {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{name} is {found}\n{}", journal());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn evenly(workers: &[workers::Worker]) -> anyhow::Result<()> {
    census::one_by_one(local(PORT), 30)?.exactly(&workers::pids(workers), 10)
}

/// One function: there is one systemd.
#[test]
#[ignore = "privileged"]
fn the_unit_of_the_documentation() -> anyhow::Result<()> {
    ensure!(
        fs::read_to_string("/proc/1/comm")?.trim() == "systemd",
        "this would change the services of this machine: the runner doesn't come here"
    );
    install("/etc/sysusers.d/steer.conf")?;
    install("/etc/systemd/system/steer@.service")?;
    fs::create_dir_all("/usr/local/bin")?;
    fs::copy(binary()?, "/usr/local/bin/steer")?;
    // The one change: a watchdog that a test can wait for.
    let watchdog = if patience::is_slow() { 24 } else { 8 };
    write(DROP_IN, &format!("[Service]\nWatchdogSec={watchdog}\n"))?;
    command("systemd-sysusers", &[])?;
    systemctl(&["daemon-reload"])?;

    // Nobody listens yet: it is ready, and follows the port.
    systemctl(&["start", INSTANCE])?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let steering = texts::attach::text_steering(PORT, 3);
    wait_for("StatusText", |text| text == steering)?;
    evenly(&workers)?;
    let pid = property("MainPID")?;
    let of_steer = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |start: &str| {
        let mut lines = of_steer.lines();
        lines.find_map(|line| line.strip_prefix(start).map(str::trim))
    };
    let uid = line("Uid:").and_then(|ids| ids.split_whitespace().next());
    ensure!(uid.is_some_and(|uid| uid != "0"), "{of_steer}");
    // CAP_DAC_READ_SEARCH 2, CAP_SYS_PTRACE 19, CAP_PERFMON 38, CAP_BPF 39.
    ensure!(line("CapEff:") == Some("000000c000080004"), "{of_steer}");
    ensure!(line("NoNewPrivs:") == Some("1"), "{of_steer}");

    // A reload executes the file again, in the same process and without a gap.
    let before = status(PORT)?;
    systemctl(&["reload", INSTANCE])?;
    wait_for("ActiveState", |state| state == "active")?;
    evenly(&workers)?;
    ensure!(property("MainPID")? == pid, "{}", journal());
    let after = status(PORT)?;
    ensure!(
        after.groups[0].hashed == before.groups[0].hashed,
        "{before:?} {after:?}"
    );

    // One that hangs is killed and started anew, and meanwhile all goes on.
    ensure!(property("NRestarts")? == "0");
    let hung = pid.parse().ok().and_then(Pid::from_raw);
    kill_process(hung.context("no pid")?, Signal::STOP)?;
    evenly(&workers)?;
    wait_for("NRestarts", |count| count == "1")?;
    evenly(&workers)?;
    wait_for("ActiveState", |state| state == "active")?;
    let successor = wait_for("MainPID", |found| found != pid && found != "0")?;
    wait_for("StatusText", |text| {
        text.ends_with(&texts::attach::text_workers(3))
    })?;
    evenly(&workers)?;
    ensure!(status(PORT)?.loader_pid.map(|pid| pid.to_string()) == Some(successor));

    // Another instance beside it; the first one to stop leaves the other's pins alone.
    let beside = workers::start(1, "127.0.0.1:3001")?;
    systemctl(&["start", "steer@3001.service"])?;
    systemctl(&["stop", INSTANCE])?;
    ensure!(property("Result")? == "success", "{}", journal());
    ensure!(status(3001)?.loader_pid.is_some(), "{}", journal());
    census::one_by_one(local(3001), 5)?.exactly(&workers::pids(&beside), 5)?;
    systemctl(&["stop", "steer@3001.service"])?;
    // The directory is the user's, and stays.
    let left: Vec<_> = fs::read_dir("/sys/fs/bpf/steer")?.collect();
    ensure!(left.is_empty(), "{left:?}");
    let nothing = steer(["status", "--port", "3000"])?;
    ensure!(nothing.code == Some(code::NOTHING), "{nothing:?}");

    // What can't be steered fails, and isn't tried again and again.
    drop(workers);
    let _alone = std::net::TcpListener::bind(local(PORT))?;
    let mut start = Command::new("systemctl");
    start.args(["start", INSTANCE]);
    let failed = run(start)?;
    ensure!(failed.code == Some(1), "{failed:?}");
    ensure!(property("ExecMainStatus")? == "5", "{}", journal());
    ensure!(property("ActiveState")? == "failed", "{}", journal());
    ensure!(
        journal().contains(texts::refused::REUSEPORT),
        "{}",
        journal()
    );
    Ok(())
}
