//! Detaches steer's programs from groups. Any listener of a group will do, if steer can take it.

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

/// How long to wait for workers that are ending and still hold their listeners.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to try meanwhile.
const PERIOD: Duration = Duration::from_millis(10);

/// Detaches the programs of the chosen groups of the port, by any member of each. A group may end
/// meanwhile.
///
/// # Errors
/// If a group stays and its program can't be detached: no process is found from which a listener
/// of it can be taken, or the kernel refuses.
pub fn detach(
    port: Port,
    members: &mut Members,
    is_chosen: impl Fn(&FoundGroup) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Workers that are just ending are no reason to give up.
        match detach_once(port, members, &is_chosen) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(PERIOD),
        }
    }
}

/// Detaches as many of the chosen programs as possible.
///
/// # Errors
/// If one of them couldn't be detached.
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

/// Detaches a group's program by the first of its listeners that can be taken.
///
/// # Errors
/// If no listener can be taken. Then all processes that were seen to hold one are gone, or the
/// kernel refuses.
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
                // The listener has left the group, or nothing is attached to the group any more.
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
