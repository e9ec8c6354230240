//! Every command works for a user who isn't root with the capabilities that docs/operations.md lists, and
//! says which one is missing without any of them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    process::Command,
};

use anyhow::{Context as _, ensure};
use rustix::{process::Signal, thread::CapabilitySet};
use steer_tests::{
    isolate::{isolate, isolate_without_bpffs},
    steer::{Attach, Finished, code, run, steer},
    texts,
    user::{NOBODY, own_directory, steer_as},
    workers::{self, Worker},
};
use steer_user::kernel::kernel_version::guards_maps;

const PORT: u16 = 3000;

const BPF: CapabilitySet = CapabilitySet::BPF;
const PERFMON: CapabilitySet = CapabilitySet::PERFMON;
const PTRACE: CapabilitySet = CapabilitySet::SYS_PTRACE;
const READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;
const WRITE: CapabilitySet = CapabilitySet::DAC_OVERRIDE;
const ADMIN: CapabilitySet = CapabilitySet::SYS_ADMIN;
const KILL: CapabilitySet = CapabilitySet::KILL;

/// What pinned maps take, besides their directory.
fn maps() -> CapabilitySet {
    if guards_maps() {
        BPF
    } else {
        CapabilitySet::empty()
    }
}

/// What `attach` and `detach` need.
const ATTACH: CapabilitySet = BPF.union(PERFMON).union(PTRACE).union(READ);

fn name(capability: CapabilitySet) -> anyhow::Result<&'static str> {
    let names = [
        (BPF, "CAP_BPF"),
        (PERFMON, "CAP_PERFMON"),
        (PTRACE, "CAP_SYS_PTRACE"),
        (READ, "CAP_DAC_READ_SEARCH"),
        (WRITE, "CAP_DAC_OVERRIDE"),
        (ADMIN, "CAP_SYS_ADMIN"),
        (KILL, "CAP_KILL"),
    ];
    let known = names.into_iter().find(|(one, _)| *one == capability);
    Ok(known.context("a capability of steer")?.1)
}

fn command(uid: u32, capabilities: CapabilitySet, line: &str) -> anyhow::Result<Command> {
    let mut command = steer_as(uid, capabilities)?;
    command.args(line.split(' '));
    Ok(command)
}

fn with(capabilities: CapabilitySet, line: &str) -> anyhow::Result<Finished> {
    run(command(NOBODY, capabilities, line)?)
}

/// It ends with code 3 and one line that names what is missing.
fn refuses(capabilities: CapabilitySet, line: &str, missing: CapabilitySet) -> anyhow::Result<()> {
    let finished = with(capabilities, line)?;
    let said = format!("{line} without {}: {finished:?}", name(missing)?);
    ensure!(finished.code == Some(code::NOT_PERMITTED), "{said}");
    ensure!(finished.stderr.lines().count() == 1, "{said}");
    ensure!(finished.stderr.contains(name(missing)?), "{said}");
    Ok(())
}

/// It refuses without each of these.
fn needs_each(capabilities: CapabilitySet, line: &str) -> anyhow::Result<()> {
    for missing in capabilities.iter() {
        refuses(capabilities.difference(missing), line, missing)?;
    }
    Ok(())
}

fn works(capabilities: CapabilitySet, line: &str) -> anyhow::Result<Finished> {
    needs_each(capabilities, line)?;
    let finished = with(capabilities, line)?;
    ensure!(finished.code == Some(0), "{line}: {finished:?}");
    Ok(finished)
}

#[test]
#[ignore = "privileged"]
fn attach_with_four() -> anyhow::Result<()> {
    isolate()?;
    own_directory(NOBODY)?;
    let _workers = workers::start(3, "127.0.0.1:3000")?;
    for policy in ["rr", "least", "p2c", "sticky", "hash"] {
        for migrate in ["on", "off", "auto"] {
            let line = format!("attach --port 3000 --policy {policy} --migrate {migrate}");
            let mut attach = Attach::spawn_command(command(NOBODY, ATTACH, &line)?)?;
            attach.wait_line(texts::attach::STEERING)?;
            let said = attach.said();
            // That this kernel's migration isn't sound is no matter of capabilities.
            let warned = said.lines().any(|line| {
                line.starts_with(texts::WARNING) && !line.contains(texts::attach::UNSOUND_MIGRATION)
            });
            ensure!(!warned, "{line}: {said}");
            attach.detach()?;
        }
    }
    needs_each(ATTACH, "attach --port 3000 --no-wait")?;
    let left = steer(["status", "--port", "3000"])?;
    ensure!(left.code == Some(code::NOTHING), "{left:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn what_changes_and_shows_takes_fewer() -> anyhow::Result<()> {
    isolate()?;
    own_directory(NOBODY)?;
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let line = "attach --port 3000 --migrate on --keep";
    let mut attach = Attach::spawn_command(command(NOBODY, ATTACH, line)?)?;
    attach.wait_line(texts::attach::STEERING)?;

    // The bpffs is root's, mode 0700, as systemd mounts it; only the directory in it is the user's.
    let edits = maps().union(READ);
    let pid = workers[0].pid();
    works(edits, "status --port 3000")?;
    works(edits, "policy --port 3000 rr")?;
    works(edits, &format!("weight --port 3000 --pid {pid} 3"))?;
    works(edits, &format!("drain --port 3000 --pid {pid}"))?;
    works(edits, &format!("drain --port 3000 --pid {pid} --wait"))?;
    works(edits, &format!("undrain --port 3000 --pid {pid}"))?;
    works(
        edits.union(PTRACE),
        &format!("evict --port 3000 --pid {pid} --yes"),
    )?;
    // Where everybody may enter the bpffs, the directory's owner needs no more.
    fs::set_permissions("/sys/fs/bpf", fs::Permissions::from_mode(0o711))?;
    works(maps(), "status --port 3000")?;
    works(maps(), "policy --port 3000 least")?;
    fs::set_permissions("/sys/fs/bpf", fs::Permissions::from_mode(0o700))?;
    // Whether its program is attached takes what attach takes to tell.
    let told = with(ATTACH, "status --port 3000 --json")?;
    ensure!(told.stdout.contains("\"attached\":true"), "{told:?}");

    needs_each(ATTACH, "detach --port 3000")?;
    let kept = attach.end(Signal::TERM)?;
    ensure!(kept.success(), "{kept}: {}", attach.said());
    works(ATTACH, "detach --port 3000")?;
    let left = steer(["status", "--port", "3000"])?;
    ensure!(left.code == Some(code::NOTHING), "{left:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn doctor_and_demo() -> anyhow::Result<()> {
    isolate()?;
    own_directory(NOBODY)?;
    works(ATTACH, "demo --rounds 2 --block-ms 20")?;
    let all = with(ATTACH, "doctor")?;
    ensure!(all.code == Some(0), "{all:?}");
    for missing in ATTACH.iter() {
        let some = with(ATTACH.difference(missing), "doctor")?;
        ensure!(some.code == Some(code::NOT_PERMITTED), "{some:?}");
        ensure!(some.stdout.contains(name(missing)?), "{some:?}");
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_bpffs_of_its_own_takes_another() -> anyhow::Result<()> {
    isolate_without_bpffs()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    let line = "attach --port 3000";
    // Root's user id, without root's capabilities.
    let refused = run(command(0, ATTACH, line)?)?;
    ensure!(refused.code == Some(code::NOT_PERMITTED), "{refused:?}");
    ensure!(refused.stderr.contains(name(ADMIN)?), "{refused:?}");
    let mut attach = Attach::spawn_command(command(0, ATTACH.union(ADMIN), line)?)?;
    attach.wait_line(texts::attach::STEERING)?;
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn another_users_attachment() -> anyhow::Result<()> {
    isolate()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    let mut attach = Attach::start(PORT, "rr", &[])?;
    works(maps().union(READ), "status --port 3000")?;
    refuses(maps().union(READ), "policy --port 3000 least", WRITE)?;
    refuses(ATTACH, "detach --port 3000", WRITE)?;
    refuses(ATTACH.union(WRITE), "detach --port 3000", KILL)?;
    let all = ATTACH.union(WRITE).union(KILL);
    let detached = with(all, "detach --port 3000")?;
    ensure!(detached.code == Some(0), "{detached:?}");
    let ended = attach.wait()?;
    ensure!(ended.success(), "{ended}: {}", attach.said());
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn directories_that_are_not_the_users() -> anyhow::Result<()> {
    isolate()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    refuses(ATTACH, "attach --port 3000", WRITE)?;
    fs::create_dir("/sys/fs/bpf/steer")?;
    chown("/sys/fs/bpf/steer", Some(NOBODY), None)?;
    let line = "attach --port 3000";
    let mut attach = Attach::spawn_command(command(NOBODY, ATTACH, line)?)?;
    attach.wait_line(texts::attach::STEERING)?;
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn another_namespace_takes_another() -> anyhow::Result<()> {
    isolate()?;
    own_directory(NOBODY)?;
    let worker = Worker::start("127.0.0.1:3000", &[])?;
    let line = format!("--netns pid:{} attach --port 3000", worker.pid());
    refuses(ATTACH, &line, ADMIN)?;
    refuses(ATTACH.union(ADMIN).difference(PTRACE), &line, PTRACE)?;
    let mut attach = Attach::spawn_command(command(NOBODY, ATTACH.union(ADMIN), &line)?)?;
    attach.wait_line(texts::attach::STEERING)?;
    attach.detach()
}
