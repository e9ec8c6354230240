//! Makes the tracker and the shared maps if the host has none.

use std::{fs, path::Path};

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{BtfTracePoint, Iter, links::FdLink},
};
use steer_common::names;

use super::{Host, HostLock, LINK, LINK_AGAIN, LINK_DESTROYED, LINK_READS};
use crate::{
    kernel::{
        loading::{Constants, Kernel},
        verifier,
    },
    state::{lock::Lock, pins::remove_tree},
};

impl Host {
    /// Opens the shared maps. If the host has none, creates them and attaches the tracker. The
    /// caller holds a port's lock, so that nobody takes the tracker for unused.
    pub fn open_or_create(kernel: &Kernel) -> anyhow::Result<(HostLock, Self)> {
        let held = HostLock::take()?;
        if is_whole(&held)? {
            let host = Self::open(held.pins())?;
            return Ok((held, host));
        }
        held.remove_unfinished()?;
        let dir = held.pins().make_unfinished_host()?;
        // The lock shows that the directory is in use. An unlocked one was left by a steer that
        // was killed.
        let _making = Lock::acquire(&dir)?;
        drop(held);
        let made = make(&dir, kernel);
        let held = HostLock::take()?;
        let made = made.and_then(|()| {
            if is_whole(&held)? {
                // Another steer was faster.
                return Ok(());
            }
            let host = held.pins().host();
            // A tracker's directory without the link was left half-removed.
            remove_tree(&host)?;
            fs::rename(&dir, &host).with_context(|| format!("failed to make {}", host.display()))
        });
        remove_tree(&dir)?;
        made?;
        let host = Self::open(held.pins())?;
        Ok((held, host))
    }
}

fn is_whole(held: &HostLock) -> anyhow::Result<bool> {
    Ok(fs::exists(held.pins().host().join(LINK))?)
}

/// Makes the tracker and the shared maps, and pins all of it in a directory.
fn make(dir: &Path, kernel: &Kernel) -> anyhow::Result<()> {
    let types = kernel.types()?;
    let mut ebpf = kernel.load(Constants::default(), dir, None)?;
    pin_recount(&mut ebpf, kernel, dir)?;
    for (name, tracepoint, link) in [
        (names::PROGRAM_READS, names::TRACEPOINT_READS, LINK_READS),
        (names::PROGRAM_TRACK_AGAIN, names::TRACEPOINT, LINK_AGAIN),
        (
            names::PROGRAM_DESTROYED,
            names::TRACEPOINT_DESTROYED,
            LINK_DESTROYED,
        ),
        (names::PROGRAM_TRACK, names::TRACEPOINT, LINK),
    ] {
        let program: &mut BtfTracePoint = ebpf
            .program_mut(name)
            .with_context(|| format!("the kernel object has no program {name}"))?
            .try_into()?;
        verifier::load(name, || program.load(tracepoint, &types))?;
        let attached = program
            .attach()
            .context("failed to attach the connection tracker")?;
        let attached: FdLink = program.take_link(attached)?.into();
        let path = dir.join(link);
        attached
            .pin(&path)
            .with_context(|| format!("failed to pin {}", path.display()))?;
    }
    Ok(())
}

/// Pins the iterator over open connections. It runs when somebody reads the pin, in the network
/// namespace in which the pin was opened. Minimum kernel version: Linux 5.8.
fn pin_recount(ebpf: &mut Ebpf, kernel: &Kernel, dir: &Path) -> anyhow::Result<()> {
    let types = kernel.types()?;
    let program: &mut Iter = ebpf
        .program_mut(names::PROGRAM_RECOUNT)
        .context("the kernel object has no iterator over connections")?
        .try_into()?;
    verifier::load(names::PROGRAM_RECOUNT, || {
        program.load(names::ITERATOR, &types)
    })?;
    let link = program.attach()?;
    let link: FdLink = program.take_link(link)?.try_into()?;
    let path = dir.join(names::PROGRAM_RECOUNT);
    link.pin(&path)
        .with_context(|| format!("failed to pin {}", path.display()))?;
    Ok(())
}
