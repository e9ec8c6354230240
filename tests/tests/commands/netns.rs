//! steer steers in a network namespace that it isn't in.

use std::{fs, path::Path, thread};

use anyhow::ensure;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use steer_tests::{
    PORT, census,
    fixture::with_workers,
    isolate::{cover, isolate, leftovers},
    status::Status,
    steer::{Attach, steer},
    texts,
    workers::local,
};

/// Runs something in a network namespace of its own.
fn elsewhere<T: Send>(run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            // SAFETY: only this thread's view of the network changes.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            run()
        });
        elsewhere.join().expect("the thread doesn't panic")
    })
}

#[test]
#[ignore = "privileged"]
fn workers_of_another_namespace_are_steered() -> anyhow::Result<()> {
    let workers = with_workers(3)?;
    let by_pid = format!("pid:{}", workers[0].pid());
    fs::create_dir("/run/netns")?;
    fs::write("/run/netns/blue", "")?;
    cover(
        Path::new("/run/netns/blue"),
        Path::new("/proc/thread-self/ns/net"),
    )?;
    for netns in [by_pid.as_str(), "blue", "/run/netns/blue"] {
        let attach = elsewhere(|| {
            let here = steer(["attach", "--port", "3000", "--no-wait"])?;
            ensure!(here.code == Some(4), "{here:?}");
            Attach::start(PORT, "rr", &["--netns", netns])
        })?;
        ensure!(census::takes_turns(local(PORT), 3)?, "{netns}");
        let seen = elsewhere(|| steer(["status", "--port", "3000", "--json", "--netns", netns]))?;
        let seen: Status = serde_json::from_str(&seen.stdout)?;
        let queues = seen.attachments[0].groups[0].workers.iter();
        ensure!(
            queues.len() == workers.len()
                && queues.clone().all(|worker| worker.accept_queue == Some(0)),
            "{seen:?}"
        );
        let policy = ["policy", "--port", "3000", "least"];
        let refused = elsewhere(|| steer(policy))?;
        ensure!(refused.code == Some(4), "{refused:?}");
        let changed = elsewhere(|| steer([&policy[..], &["--netns", netns]].concat()))?;
        ensure!(changed.code == Some(0), "{changed:?}");
        let detached = elsewhere(|| steer(["detach", "--port", "3000", "--netns", netns]))?;
        ensure!(detached.code == Some(0), "{detached:?}");
        drop(attach);
        let left = leftovers()?;
        ensure!(left == [Path::new("/run/netns/blue")], "{left:?}");
    }
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn what_is_no_namespace_is_refused() -> anyhow::Result<()> {
    isolate()?;
    for (netns, code, words) in [
        ("green", 4, texts::refused::no_file("/run/netns/green")),
        ("pid:0", 4, texts::refused::no_file("/proc/0/ns/net")),
        ("/proc/self/exe", 4, texts::refused::NO_NAMESPACE.to_owned()),
        ("pid:x", 2, texts::refused::NAMESPACE_OF_PID.to_owned()),
    ] {
        let refused = steer(["status", "--netns", netns])?;
        ensure!(
            refused.code == Some(code) && refused.stderr.contains(&words),
            "{netns}: {refused:?}"
        );
    }
    Ok(())
}
