//! What steer can't do: each with a line that says so and what to do, an exit code, and nothing
//! left behind.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::ensure;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use steer_tests::{
    PORT, census,
    fixture::{steered, with_workers},
    isolate::{self, isolate},
    skip::{Skip, skip},
    steer::{Attach, Finished, binary, code, run, status, steer},
    texts,
    workers::{self, Worker, local},
};
use steer_user::sys::listening::{ListenOptions, listen};

/// Any user that isn't root.
const NOBODY: u32 = 65534;

/// Checks that `steer attach` ends with `code`, says all of `words` in one line and leaves nothing.
fn refused(args: &[&str], code: i32, words: &[impl AsRef<str>]) -> anyhow::Result<()> {
    let all = [&["attach", "--port", "3000"], args].concat();
    check(&steer(all)?, code, words)
}

fn check(finished: &Finished, code: i32, words: &[impl AsRef<str>]) -> anyhow::Result<()> {
    ensure!(
        finished.code == Some(code),
        "not exit code {code}: {finished:?}"
    );
    ensure!(
        finished.stdout.is_empty(),
        "messages belong on stderr: {finished:?}"
    );
    let line = finished.stderr.lines().find(|line| {
        let line = line.to_lowercase();
        let words = words.iter().map(|word| word.as_ref().to_lowercase());
        words.into_iter().all(|word| line.contains(&word))
    });
    ensure!(
        line.is_some(),
        "no line with all of {:?}: {finished:?}",
        words.iter().map(AsRef::as_ref).collect::<Vec<_>>()
    );
    let left = isolate::leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn not_root() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    // The build may be where others can't go.
    let copy = Path::new("/run/steer-copy");
    fs::copy(binary()?, copy)?;
    fs::set_permissions(copy, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command.args(["attach", "--port", "3000"]);
    let attach = run(command)?;
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY).arg("demo");
    let demo = run(command)?;
    fs::remove_file(copy)?;
    for finished in [attach, demo] {
        check(&finished, code::NOT_PERMITTED, &texts::refused::NOT_ROOT)?;
    }
    ensure!(!census::takes_turns(local(PORT), 2)?);
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn no_listener_and_no_wait() -> anyhow::Result<()> {
    isolate()?;
    refused(
        &["--no-wait"],
        code::NOTHING,
        &texts::refused::nobody_listens(PORT),
    )?;
    // One on another address is none either.
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    refused(
        &["--no-wait", "--bind", "127.0.0.9"],
        code::NOTHING,
        &texts::refused::nobody_listens_at("127.0.0.9", PORT),
    )
}

#[test]
#[ignore = "privileged"]
fn nothing_attached() -> anyhow::Result<()> {
    isolate()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    for args in [["status", "--port", "3000"], ["detach", "--port", "3000"]] {
        check(
            &steer(args)?,
            code::NOTHING,
            &texts::refused::nothing_attached(PORT),
        )?;
    }
    let all = steer(["status", "--json"])?;
    ensure!(all.code == Some(0), "{all:?}");
    let all: serde_json::Value = serde_json::from_str(&all.stdout)?;
    ensure!(all == serde_json::json!({ "attachments": [] }), "{all}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_listener_without_reuseport() -> anyhow::Result<()> {
    isolate()?;
    let worker = Worker::start("127.0.0.1:3000", &["--no-reuse-port"])?;
    let words = texts::refused::without_reuseport(PORT, worker.pid());
    refused(&[], code::UNSTEERABLE, &words)
}

#[test]
#[ignore = "privileged"]
fn one_listener_polled_by_two_processes() -> anyhow::Result<()> {
    isolate()?;
    let listener = listen(&ListenOptions::new(local(PORT)))?;
    let first = Worker::start_on(&listener)?;
    let second = Worker::start_on(&listener)?;
    drop(listener);
    let pids = [first.pid(), second.pid()];
    // It may pass, so it is waited for.
    let mut waiting = Attach::spawn(PORT, "rr", &[])?;
    let line = waiting.wait_line(texts::attach::WAITING)?;
    let words = texts::refused::several_processes(PORT, pids);
    ensure!(texts::has_all(&line, &words), "{line}");
    waiting.detach()?;
    let words = texts::refused::several_processes_still(PORT, pids);
    refused(&["--no-wait"], code::UNSTEERABLE, &words)
}

#[test]
#[ignore = "privileged"]
fn one_that_cannot_be_steered_among_others() -> anyhow::Result<()> {
    isolate()?;
    let _foreign = Worker::start("127.0.0.1:3000", &["--foreign-map"])?;
    let shared = listen(&ListenOptions::new(local(PORT)))?;
    let _sharing = [Worker::start_on(&shared)?, Worker::start_on(&shared)?];
    drop(shared);
    let good = workers::start(4, "127.0.0.1:3000")?;
    let attach = Attach::start(PORT, "rr", &["--no-wait"])?;
    let seen = status(PORT)?;
    ensure!(
        seen.live().count() == 4 && seen.unsteered() == 2,
        "{seen:?}"
    );
    let why: Vec<&String> = seen
        .groups
        .iter()
        .flat_map(|one| &one.unsteered_why)
        .collect();
    ensure!(
        why.len() == 2
            && why
                .iter()
                .any(|why| why.contains(texts::status::SEVERAL_PROCESSES))
            && why
                .iter()
                .any(|why| why.contains(texts::status::IN_ANOTHER_MAP)),
        "{why:?}"
    );
    let table = steer(["status", "--port", "3000"])?.stdout;
    ensure!(why.iter().all(|why| table.contains(*why)), "{table}");
    // These two have about the third that the hash would give them, and the others have turns.
    let census = census::one_by_one(local(PORT), 1500)?;
    census.check()?;
    let of = |pid: u32| census.served.get(&pid).copied().unwrap_or_default();
    let turns: Vec<usize> = workers::pids(&good).into_iter().map(of).collect();
    ensure!(
        turns.iter().max() <= turns.iter().min().map(|least| least + 1).as_ref(),
        "{census:?}"
    );
    let sum: usize = turns.iter().sum();
    ensure!((850..1150).contains(&sum), "{census:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_multipath_listener() -> anyhow::Result<()> {
    isolate()?;
    if !Path::new("/proc/sys/net/mptcp").exists() {
        let lacks = "Multipath TCP";
        return skip("a_multipath_listener", &Skip::Kernel { lacks });
    }
    let _worker = Worker::start("127.0.0.1:3000", &["--mptcp"])?;
    refused(&[], code::UNSTEERABLE, &texts::refused::multipath(PORT))
}

#[test]
#[ignore = "privileged"]
fn a_group_that_is_steered_already() -> anyhow::Result<()> {
    let (_workers, attach) = steered(3, "rr", &[])?;
    let second = steer(["attach", "--port", "3000"])?;
    ensure!(second.code == Some(code::HELD), "{second:?}");
    let words = texts::refused::held(PORT, attach.pid());
    ensure!(texts::has_all(&second.stderr, &words), "{second:?}");
    attach.detach()
}

#[test]
#[ignore = "privileged"]
fn a_group_with_another_program() -> anyhow::Result<()> {
    isolate()?;
    let mut workers = vec![Worker::start("127.0.0.1:3000", &["--foreign-program"])?];
    workers.extend(workers::start(2, "127.0.0.1:3000")?);
    let first = workers[0].pid();
    refused(&[], code::HELD, &texts::refused::another_program(PORT))?;
    // It still decides.
    census::one_by_one(local(PORT), 30)?.exactly(&[first], 30)?;

    let attach = Attach::start(PORT, "rr", &["--replace"])?;
    census::one_by_one(local(PORT), 30)?.exactly(&workers::pids(&workers), 10)?;
    attach.detach()?;
    ensure!(isolate::leftovers()?.is_empty());
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn listeners_in_another_tools_map() -> anyhow::Result<()> {
    isolate()?;
    let _workers = [
        Worker::start("127.0.0.1:3000", &["--foreign-map"])?,
        Worker::start("127.0.0.1:3000", &["--foreign-map"])?,
    ];
    refused(
        &[],
        code::UNSTEERABLE,
        &texts::refused::in_another_map(PORT),
    )?;
    ensure!(!census::takes_turns(local(PORT), 2)?);
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn a_kernel_without_btf() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    let empty = Path::new("/run/no-btf");
    fs::write(empty, "")?;
    isolate::cover(btf, empty)?;
    fs::remove_file(empty)?;
    refused(&[], code::KERNEL, &texts::refused::NO_BTF)
}

#[test]
#[ignore = "privileged"]
fn a_kernel_that_lists_no_sockets() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    let mut attach = Command::new(binary()?);
    attach.args(["attach", "--port", "3000"]);
    let filter = without_sock_diag()?;
    // SAFETY: between fork and exec the closure only makes system calls, on memory that was
    // prepared before.
    unsafe {
        attach.pre_exec(move || seccompiler::apply_filter(&filter).map_err(io::Error::other));
    }
    check(&run(attach)?, code::KERNEL, &texts::refused::NO_SOCK_DIAG)?;
    ensure!(!census::takes_turns(local(PORT), 2)?);
    Ok(())
}

/// A filter under which there is no socket of `NETLINK_SOCK_DIAG`, as in a kernel without it.
fn without_sock_diag() -> anyhow::Result<BpfProgram> {
    let is = |argument, value: i32| {
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            value as u64,
        )
    };
    let sock_diag = SeccompRule::new(vec![
        is(0, libc::AF_NETLINK)?,
        is(2, libc::NETLINK_SOCK_DIAG)?,
    ])?;
    let filter = SeccompFilter::new(
        [(libc::SYS_socket, vec![sock_diag])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPROTONOSUPPORT as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

#[test]
#[ignore = "privileged"]
fn bad_arguments() -> anyhow::Result<()> {
    isolate()?;
    for port in ["0", "70000", "abc", "-1", ""] {
        for command in ["attach", "detach", "status"] {
            let finished = steer([command, &format!("--port={port}")])?;
            check(&finished, code::USAGE, &texts::refused::PORT_OPTION)?;
        }
    }
    let no_port = steer(["attach"])?;
    check(&no_port, code::USAGE, &texts::refused::PORT_OPTION)?;
    for (option, value) in [
        ("--policy", "random"),
        ("--bind", "localhost:3000"),
        ("--bind", "1.2.3"),
    ] {
        let words = texts::refused::usage(option, value);
        refused(&[option, value], code::USAGE, &words)?;
    }
    Ok(())
}
