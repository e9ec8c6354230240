//! Where pins are: whose the directories must be, and who shares them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use rustix::{
    mount::{MountFlags, mount},
    process::Signal,
};
use steer_tests::{
    PORT,
    census::takes_turns,
    isolate::{isolate, isolate_without_bpffs, leftovers},
    process::eventually,
    status::Status,
    steer::{Attach, about_the_port, binary, code, nothing_is_left, run, steer},
    texts,
    user::NOBODY,
    workers::{self, Worker, local},
};

const WORKERS: usize = 3;

const ROOT: &str = "/sys/fs/bpf/steer";

const PATIENCE: Duration = Duration::from_secs(10);

/// Every command ends with one line that says what is wrong, and code 3.
fn refused(why: &str) -> anyhow::Result<()> {
    for args in about_the_port() {
        let command = args[0];
        let refused = steer(args)?;
        ensure!(
            refused.code == Some(code::NOT_PERMITTED)
                && refused.stderr.lines().count() == 1
                && refused.stderr.contains(ROOT)
                && refused.stderr.contains(why),
            "{command}: {refused:?}"
        );
    }
    let doctor = steer(["doctor"])?;
    ensure!(doctor.stdout.contains(why), "{doctor:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn directories_that_others_could_change_are_refused() -> anyhow::Result<()> {
    isolate()?;
    // With the kernel's default mode: everybody may make directories in it.
    mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None)?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    fs::create_dir(ROOT)?;
    chown(ROOT, Some(NOBODY), None)?;
    refused(&texts::refused::belongs_to(NOBODY))?;
    chown(ROOT, Some(0), None)?;
    fs::set_permissions(ROOT, fs::Permissions::from_mode(0o775))?;
    refused(&texts::refused::mode(0o775))?;
    fs::remove_dir(ROOT)?;
    fs::create_dir("/sys/fs/bpf/elsewhere")?;
    symlink("/sys/fs/bpf/elsewhere", ROOT)?;
    refused(texts::refused::A_LINK)?;
    ensure!(fs::read_dir("/sys/fs/bpf/elsewhere")?.next().is_none());
    fs::remove_file(ROOT)?;
    fs::set_permissions("/sys/fs/bpf", fs::Permissions::from_mode(0o777))?;
    fs::create_dir(ROOT)?;
    let renamed = steer(["attach", "--port", "3000"])?;
    ensure!(
        renamed.code == Some(code::NOT_PERMITTED)
            && renamed.stderr.contains(texts::refused::BPFFS_IS_NOT),
        "{renamed:?}"
    );
    fs::remove_dir(ROOT)?;
    ensure!(!takes_turns(local(PORT), WORKERS)?, "steered");

    // Who may make directories there can't rename root's, and who may not has been given this one.
    for (above, owner) in [(0o1777, 0), (0o755, NOBODY)] {
        fs::set_permissions("/sys/fs/bpf", fs::Permissions::from_mode(above))?;
        fs::create_dir(ROOT)?;
        fs::set_permissions(ROOT, fs::Permissions::from_mode(0o700))?;
        chown(ROOT, Some(owner), None)?;
        let attach = Attach::start(PORT, "rr", &[])?;
        ensure!(takes_turns(local(PORT), WORKERS)?, "not steered");
        attach.detach()?;
    }
    nothing_is_left(PORT, workers.len())
}

/// A steer in a mount namespace of its own that shares /run, as by `ip netns exec`.
fn apart(script: &str) -> anyhow::Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(binary()?);
    Ok(command)
}

/// Each has a bpffs of its own at the same place. Whoever ends first leaves the other's alone.
#[test]
#[ignore = "privileged"]
fn mount_namespaces_that_share_run() -> anyhow::Result<()> {
    isolate_without_bpffs()?;
    let workers = workers::start(WORKERS, "127.0.0.1:3000")?;
    for first_ends_first in [true, false] {
        let mut others = workers::start(2, "127.0.0.1:3001")?;
        let mut first =
            Attach::spawn_command(apart(r#"exec "$1" attach --port 3000 --policy rr"#)?)?;
        first.wait_line(texts::attach::STEERING)?;
        let second = Attach::start(3001, "rr", &[])?;
        // Here only the second one's pins are to be seen; of the first one it is said where they are not.
        let seen = steer(["status", "--json"])?;
        let Status { attachments } = serde_json::from_str(&seen.stdout)?;
        ensure!(
            attachments.len() == 1 && attachments[0].port == 3001,
            "{attachments:?}"
        );
        ensure!(
            seen.stderr.contains(&texts::refused::steered_by(PORT))
                && seen
                    .stderr
                    .contains(texts::refused::ANOTHER_MOUNT_NAMESPACE),
            "{seen:?}"
        );
        for command in ["status", "detach"] {
            let nothing = steer([command, "--port", "3000"])?;
            ensure!(
                nothing.code == Some(code::NOTHING)
                    && nothing.stderr.contains(texts::refused::MOUNT_NAMESPACE),
                "{nothing:?}"
            );
        }
        let elsewhere = r#"umount /run/steer/bpf && exec "$1" status"#;
        let elsewhere = run(apart(elsewhere)?)?;
        ensure!(
            elsewhere.stdout == texts::status::NOTHING_IS_STEERED
                && elsewhere.stderr.contains(&texts::refused::steered_by(3001)),
            "{elsewhere:?}"
        );
        if first_ends_first {
            let ended = first.end(Signal::TERM)?;
            ensure!(ended.success(), "{ended}: {}", first.said());
            others.push(Worker::start("127.0.0.1:3001", &[])?);
            let follows = eventually(PATIENCE, || {
                takes_turns(local(3001), others.len()).is_ok_and(|turns| turns)
            });
            ensure!(follows, "the second one doesn't hear of workers any more");
            let seen = steer(["status", "--port", "3001"])?;
            ensure!(seen.stdout.contains(texts::status::FOLLOWED), "{seen:?}");
            second.detach()?;
        } else {
            second.detach()?;
            ensure!(takes_turns(local(PORT), WORKERS)?, "not steered any more");
            ensure!(
                !first.said().contains(texts::attach::GONE),
                "{}",
                first.said()
            );
            let ended = first.end(Signal::TERM)?;
            ensure!(ended.success(), "{ended}: {}", first.said());
        }
        ensure!(leftovers()?.is_empty(), "left behind: {:?}", leftovers()?);
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains("/run/steer"), "{mounts}");
        nothing_is_left(PORT, workers.len())?;
    }
    Ok(())
}
