//! Which of the groups on a port can be steered. If a group can't be, what to say about it.

use crate::{
    output::{
        escape,
        exit::{Exit, Fail},
    },
    steering::advice,
    survey::{
        address,
        groups::{Found, FoundGroup},
        proc::holders::Holder,
        serving::{Serving, Unsure},
    },
};

/// Checks whether the group can be steered at all.
///
/// # Errors
/// [`Exit::CantSteer`] if all its listeners use MPTCP, or if it has no SO_REUSEPORT.
pub fn check(group: &FoundGroup) -> Result<(), Fail> {
    let shown = || address::shown(&group.key);
    let refuse = |why: String| Err(Fail::new(Exit::CantSteer, why));
    let mut unsteerable = group.listeners.iter().filter_map(unsteerable);
    if group.listeners.iter().all(|found| found.listener.mptcp)
        && let Some(why) = unsteerable.next()
    {
        return refuse(format!("tcp {} can't be steered: {why}", shown()));
    }
    if group.reuse == 0 {
        let who = group.listeners.first().map_or("its server".into(), server);
        return refuse(format!(
            "tcp {} can't be steered: {who} listens without SO_REUSEPORT, so there is one \
             listener and nothing to choose from; start several workers that set SO_REUSEPORT ({})",
            shown(),
            advised(
                group
                    .listeners
                    .first()
                    .and_then(|found| found.holder.as_ref())
            )
        ));
    }
    Ok(())
}

/// Why a listener can't be steered, whichever process serves it.
pub fn unsteerable(found: &Found) -> Option<String> {
    found.listener.mptcp.then(|| {
        format!(
            "{} listens with MPTCP, and the kernel doesn't let steer select MPTCP listeners; turn MPTCP off \
             (Go: GODEBUG=multipathtcp=0, or ListenConfig.SetMultipathTCP(false))",
            server(found)
        )
    })
}

/// What steer waits for in a group of which no listener can be steered yet.
pub fn awaited(group: &FoundGroup) -> String {
    let unsure = group
        .listeners
        .iter()
        .find_map(|found| match &found.serving {
            Serving::Undecided(unsure, _) => Some(unsure),
            Serving::By(..) | Serving::Nobody => None,
        });
    let why = unsure.map_or_else(
        || "nobody polls a listener there yet".to_owned(),
        |unsure| {
            let advice = match unsure {
                Unsure::Several(holders) => format!(
                    ", so a connection goes to whichever process accepts it first; unless a reload is \
                     under way, give each worker a listener of its own ({})",
                    advised(holders.first())
                ),
                Unsure::NoHolder | Unsure::NotSeen(_) => String::new(),
            };
            format!("{}{advice}", undecided(unsure))
        },
    );
    format!("tcp {}: {why}", address::shown(&group.key))
}

/// Why steer can't tell who serves a listener.
pub fn undecided(unsure: &Unsure) -> String {
    let list = |holders: &[Holder]| -> String {
        let named: Vec<String> = holders.iter().take(4).map(process).collect();
        match holders.len().saturating_sub(4) {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    };
    match unsure {
        Unsure::NoHolder => "no process that steer sees in /proc has the listener".into(),
        Unsure::NotSeen(holders) => format!(
            "steer hasn't seen {} wait for a connection on the listener yet",
            list(holders)
        ),
        Unsure::Several(holders) => {
            format!("several processes poll one listener ({})", list(holders))
        }
    }
}

/// Why a listener of a steered group isn't steered, as far as a single look can tell. `is_followed`
/// says whether a steer follows the port, which is who would give the listener a slot.
pub fn unsteered(found: &Found, port: u16, is_followed: bool) -> String {
    if let Some(why) = unsteerable(found) {
        return why;
    }
    match &found.serving {
        Serving::Undecided(unsure, _) | Serving::By(_, Some(unsure)) => undecided(unsure),
        Serving::By(owner, None) if !is_followed => format!(
            "{}: no steer follows the port, so nobody gives the listener a slot; `steer attach --port {port}` does",
            process(owner)
        ),
        Serving::By(owner, None) => format!(
            "{}: its listener is new, or is in another program's socket map, or finds all slots taken",
            process(owner)
        ),
        Serving::Nobody => "nobody polls it".into(),
    }
}

/// The refusal of a group that has another program attached.
pub fn foreign_program(group: &FoundGroup) -> Fail {
    Fail::new(
        Exit::Held,
        format!(
            "tcp {} has another program attached already ({}), which chooses the workers; `steer attach \
             --replace` takes its place, and that program can't be restored afterwards",
            address::shown(&group.key),
            program(group)
        ),
    )
}

/// The refusal of a group that another steer steers, whose pins are in another bpffs.
pub fn followed_elsewhere(group: &FoundGroup) -> Fail {
    Fail::new(
        Exit::Held,
        format!(
            "tcp {} is steered already ({}), by a steer whose pins aren't in this bpffs (it may run in another \
             container): detach the port there first",
            address::shown(&group.key),
            program(group)
        ),
    )
}

/// What has become of a group if another program was attached to it while steer steered it.
pub fn displaced(group: &FoundGroup, replace: bool) -> String {
    let then = if replace {
        "steer takes its place again, because of --replace"
    } else {
        "steer attaches again when that program is detached; with --replace steer would do so at once"
    };
    format!(
        "tcp {} isn't steered any more: another program was attached over steer's ({}); {then}",
        address::shown(&group.key),
        program(group)
    )
}

fn program(group: &FoundGroup) -> String {
    match group.program_id {
        0 => "a classic BPF filter".to_owned(),
        id => format!("eBPF program {id}"),
    }
}

/// What to set in the server that a process belongs to, so that each worker has its own listener.
fn advised(holder: Option<&Holder>) -> &'static str {
    advice::own_listeners(holder.map_or("", |holder| &holder.comm))
}

fn server(found: &Found) -> String {
    match &found.holder {
        Some(holder) => process(holder),
        None => "its server".into(),
    }
}

/// A process as messages name it.
pub fn process(holder: &Holder) -> String {
    format!("{} (pid {})", escape::foreign(&holder.comm), holder.pid)
}
