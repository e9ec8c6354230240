//! Detaches steer's programs from groups, by any listener of each that can be taken.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use aya::programs::{ProgramError, SkReuseport};

use crate::{
    steering::take,
    survey::{
        address,
        groups::{Following, FoundGroup, Look, survey},
        members::Members,
        port::Port,
    },
};

/// How long workers that end may take to give up their listeners.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often that is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Detaches the programs of those groups of the port that are chosen, by any member of each. A group may
/// end meanwhile; one that goes on without a process to take a listener from is an error.
pub fn detach(
    port: Port,
    members: &mut Members,
    is_chosen: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Workers that end at this moment are no reason to give up.
        match detach_once(port, members, &is_chosen) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(PERIOD),
        }
    }
}

/// Detaches as many of them as can be; fails where that isn't all.
fn detach_once(
    port: Port,
    members: &mut Members,
    is_chosen: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let mut following = Following::default();
    let mut found = survey(port, members, &mut following, Look::Everywhere)?;
    found.retain(|group| group.has_program && is_chosen(group));
    let outcomes: Vec<_> = found.iter().map(detach_group).collect();
    outcomes.into_iter().collect()
}

/// Detaches a group's program by the first of its listeners that can be taken. Fails where none can: then all
/// processes that were seen with one are gone, or the kernel refuses.
fn detach_group(group: &FoundGroup) -> anyhow::Result<()> {
    let at = address::shown(&group.key);
    let mut refused = None;
    for found in &group.listeners {
        let Some(holder) = &found.holder else {
            continue;
        };
        match take::listener(holder, found.listener.cookie) {
            Ok(listener) => match SkReuseport::detach(&listener) {
                Ok(()) => return Ok(()),
                // It has left the group, or nothing is attached to that any more.
                Err(error) if is_detached(&error) => {}
                Err(error) => refused = Some(error.into()),
            },
            Err(error) => refused = Some(error.into()),
        }
    }
    let port = group.key.port;
    let unseen = || {
        anyhow!(
            "no process that steer sees in /proc has its listeners; run `steer detach --port {port}` in \
             the host's pid namespace"
        )
    };
    let cause: anyhow::Error = refused.unwrap_or_else(unseen);
    Err(anyhow!("tcp {at} can't be detached: {cause:#}"))
}

fn is_detached(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    matches!(
        error.io_error.raw_os_error(),
        Some(libc::ENOENT | libc::EINVAL)
    )
}
