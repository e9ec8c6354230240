//! Which of the groups found on a port can be steered, and what to tell where one can't.

use crate::{
    escape,
    exit::{Exit, Fail},
    owner::Owner,
    procfd::Holder,
    survey::{Found, FoundGroup, address},
};

/// Whether the group can be steered at all, by what it is.
pub fn check(group: &FoundGroup) -> Result<(), Fail> {
    let address = address(&group.key);
    let refuse = |why: String| Err(Fail::new(Exit::CantSteer, why));
    if let Some(found) = group.listeners.iter().find(|found| found.listener.mptcp) {
        return refuse(format!(
            "tcp {address} can't be steered: {} listens with MPTCP, which the kernel doesn't take \
             into socket maps; turn it off (Go: GODEBUG=multipathtcp=0, or \
             ListenConfig.SetMultipathTCP(false))",
            server(found)
        ));
    }
    if group.reuse == 0 {
        let who = group.listeners.first().map_or("its server".into(), server);
        return refuse(format!(
            "tcp {address} can't be steered: {who} listens without SO_REUSEPORT, so there is one \
             listener and nothing to choose from; start several workers with it (Bun and Node: \
             reusePort: true, nginx: listen ... reuseport)"
        ));
    }
    for found in &group.listeners {
        if let Owner::Several(holders) = &found.owner {
            let pids: Vec<String> = holders.iter().map(process).collect();
            return refuse(format!(
                "tcp {address} can't be steered: one listener is polled by several processes ({}), \
                 so a connection goes to whichever is first; give each worker a listener of its \
                 own (nginx: listen ... reuseport; Node: reusePort instead of cluster)",
                pids.join(", ")
            ));
        }
    }
    Ok(())
}

/// The refusal of a group that has another program attached.
pub fn foreign_program(group: &FoundGroup) -> Fail {
    Fail::new(
        Exit::Held,
        format!(
            "tcp {} has another program attached already ({}); --replace attaches steer in its \
             place, and it can't be restored afterwards",
            address(&group.key),
            program(group)
        ),
    )
}

/// The refusal of a group that another steer steers, whose pins are in another bpffs.
pub fn followed_elsewhere(group: &FoundGroup) -> Fail {
    Fail::new(
        Exit::Held,
        format!(
            "tcp {} is steered already ({}), by a steer whose pins aren't in this bpffs, as of another \
             container: detach it there first",
            address(&group.key),
            program(group)
        ),
    )
}

/// What has become of a group to which another program was attached while steer steered it.
pub fn displaced(group: &FoundGroup, replace: bool) -> String {
    let then = if replace {
        "steer takes its place again, because of --replace"
    } else {
        "steer goes on when that is detached; with --replace it would take its place again"
    };
    format!(
        "tcp {} isn't steered any more: another program was attached over steer's ({}); {then}",
        address(&group.key),
        program(group)
    )
}

fn program(group: &FoundGroup) -> String {
    match group.program_id {
        0 => "a classic BPF filter".to_owned(),
        id => format!("eBPF program {id}"),
    }
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
