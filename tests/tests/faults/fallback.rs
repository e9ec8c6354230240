//! What happens to the group while no loader follows it.

use std::{fs, net::TcpStream};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use socket2::SockRef;
use steer_common::names::LAYOUT;
use steer_tests::{
    PORT, census,
    fixture::{steered, with_workers},
    isolate::isolate,
    server::Server,
    steer::{Attach, about_the_port, code, nothing_is_left, status, status_when, steer},
    texts,
    workers::{self, Worker, local},
};
use steer_user::sys::netns;

#[test]
#[ignore = "privileged"]
fn without_a_loader_nobody_is_starved_and_nothing_is_lost() -> anyhow::Result<()> {
    let (mut workers, mut attach) = steered(3, "rr", &[])?;
    attach.end(Signal::KILL)?;
    // What is pinned steers on.
    ensure!(census::takes_turns(local(PORT), 3)?);
    ensure!(status(PORT)?.loader_pid.is_none());

    // One that steer doesn't have gets about the quarter that the hash would give it.
    workers.push(Worker::start("127.0.0.1:3000", &[])?);
    let newcomer = workers[3].pid();
    let seen = status(PORT)?;
    let why = seen.groups.iter().flat_map(|group| &group.unsteered_why);
    ensure!(
        why.clone().count() == 1
            && why
                .clone()
                .all(|why| why.contains(texts::status::NOBODY_FOLLOWS)),
        "{seen:?}"
    );
    let census = census::one_by_one(local(PORT), 2000)?;
    census.check()?;
    ensure!(census.answered() == 2000, "{census:?}");
    let got = census.served.get(&newcomer).copied().unwrap_or_default();
    ensure!(
        (360..=640).contains(&got),
        "{got} of 2000 for pid {newcomer}: {census:?}"
    );
    for worker in &workers[..3] {
        let got = census
            .served
            .get(&worker.pid())
            .copied()
            .unwrap_or_default();
        ensure!((400..=600).contains(&got), "{got} of 2000: {census:?}");
    }

    // A rolling restart: the new ones first, then the old ones leave.
    let fresh = workers::start(4, "127.0.0.1:3000")?;
    for worker in workers {
        worker.stop()?;
    }
    let census = census::one_by_one(local(PORT), 400)?;
    ensure!(census.answered() == 400, "{census:?}");
    ensure!(census.served.len() == 4, "{census:?}");

    // A new loader takes over what is pinned and finds everybody.
    let attach = Attach::start(PORT, "rr", &[])?;
    census::one_by_one(local(PORT), 400)?.exactly(&workers::pids(&fresh), 100)?;
    let seen = status(PORT)?;
    ensure!(
        seen.unsteered() == 0 && seen.live().count() == 4,
        "{seen:?}"
    );
    ensure!(seen.loader_pid == Some(attach.pid()), "{seen:?}");
    attach.detach()?;
    nothing_is_left(PORT, 4)
}

#[test]
#[ignore = "privileged"]
fn a_listener_that_listens_again_without_a_loader_has_the_hashs_share() -> anyhow::Result<()> {
    isolate()?;
    let server = Server::start(PORT, 3)?;
    for followed in [true, false] {
        let mut attach = Attach::start(PORT, "rr", &[])?;
        let paused = SockRef::from(server.any().context("no listener")?);
        let pause = || paused.shutdown(std::net::Shutdown::Read);
        if followed {
            pause()?;
            status_when(PORT, |seen| seen.live().count() == 2)?;
            attach.end(Signal::KILL)?;
        } else {
            attach.end(Signal::KILL)?;
            pause()?;
        }
        paused.listen(64)?;
        let mut got = [0; 3];
        for _ in 0..600 {
            let client = TcpStream::connect(local(PORT))?;
            for accepted in server.waiting()? {
                got[accepted.listener] += 1;
            }
            drop(client);
        }
        // A third is the hash's, give or take seven standard deviations.
        ensure!(
            got.iter().sum::<u32>() == 600 && (120..=280).contains(&got[0]),
            "followed {followed}: {got:?}"
        );
        Attach::start(PORT, "rr", &[])?.detach()?;
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn all_workers_leave_while_no_loader_runs() -> anyhow::Result<()> {
    let (workers, mut attach) = steered(3, "rr", &[])?;
    attach.end(Signal::KILL)?;
    for worker in workers {
        worker.kill()?;
    }
    // The group is another one now, and steer's program went with the old one.
    let workers = workers::start(3, "127.0.0.1:3000")?;
    let census = census::one_by_one(local(PORT), 100)?;
    ensure!(census.answered() == 100, "{census:?}");
    let attach = Attach::start(PORT, "rr", &[])?;
    census::one_by_one(local(PORT), 300)?.exactly(&workers::pids(&workers), 100)?;
    attach.detach()?;
    nothing_is_left(PORT, 3)
}

#[test]
#[ignore = "privileged"]
fn maps_of_an_unknown_layout_are_left_alone() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    // What a later version of steer left, as far as an earlier one looks at it.
    let cookie = netns::cookie()?;
    let layout = LAYOUT + 1;
    let left = format!("/sys/fs/bpf/steer/v{layout}/net-{cookie}/tcp-3000/group-0");
    fs::create_dir_all(&left)?;
    for args in about_the_port() {
        let command = args[0];
        let refused = steer(args)?;
        ensure!(refused.code == Some(code::HELD), "{command}: {refused:?}");
        ensure!(
            refused.stderr.lines().count() == 1
                && refused.stderr.contains(&texts::refused::layout(layout)),
            "{command}: {refused:?}"
        );
        ensure!(fs::exists(&left)?, "{command}");
    }
    ensure!(!census::takes_turns(local(PORT), workers.len())?);
    // Another port isn't concerned.
    let _other = workers::start(2, "127.0.0.1:3001")?;
    Attach::start(3001, "rr", &[])?.detach()?;
    ensure!(fs::exists(&left)?);
    fs::remove_dir_all("/sys/fs/bpf/steer")?;
    Attach::start(PORT, "rr", &[])?.detach()?;
    nothing_is_left(PORT, workers.len())
}
