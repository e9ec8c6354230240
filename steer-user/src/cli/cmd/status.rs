//! `steer status`: what is steered, and what the kernel has counted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use clap::Args;

use crate::{
    cli::{
        absent,
        report::{self, Seen},
    },
    kernel::loading::Kernel,
    output::print::{self, message},
    state::{
        bpffs::{self, Use},
        host,
        lock::Holder,
        pins::Pins,
        snapshot::{self, Snapshot},
    },
    steering::{abandoned, admission, older},
    survey::{
        groups::{Following, Look, key_of, survey},
        members::Members,
        port::Port,
    },
    sys::{netns, privilege, sockdiag},
};

/// Arguments of `steer status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only this TCP port
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints every attachment of the host, or that of one port.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    privilege::require(&bpffs::for_maps(Use::Read))?;
    let pins = bpffs::existing_root()?.map(|root| Pins::new(&root));
    let snapshots = match &pins {
        Some(pins) => snapshot::read(pins, args.port)?,
        None => Vec::new(),
    };
    let here = netns::cookie().context("failed to identify the network namespace")?;
    if let (Some(port), true) = (args.port, snapshots.is_empty()) {
        return Err(absent::not_steered(Port {
            netns_cookie: here,
            port,
        }));
    }
    for (layout, port) in others(pins.as_ref(), args.port)? {
        let place = place(port.netns_cookie, here);
        message(&format!(
            "warning: {place}{}",
            older::describe(port, layout)
        ));
    }
    // A steer of another mount namespace may follow a port of another network namespace. That is
    // its own affair, and isn't reported here.
    let tracker = pins.as_ref().and_then(host::tracker);
    let unpinned = abandoned::unpinned(tracker, |program| {
        let key = &program.key;
        let is_asked = args.port.is_none_or(|port| key.port == u32::from(port));
        is_asked && (key.netns_cookie == here || !program.is_tracked)
    });
    for left in &unpinned {
        let place = place(left.key.netns_cookie, here);
        message(&format!("warning: {place}tcp {}", left.describe()));
    }
    let mut seen = Vec::new();
    for snapshot in &snapshots {
        seen.push(if snapshot.port.netns_cookie == here {
            Some(look(snapshot)?)
        } else {
            None
        });
    }
    let status = report::status(&snapshots, |snapshot| {
        let index = snapshots
            .iter()
            .position(|other| std::ptr::eq(other, snapshot))?;
        seen.get(index)?.as_ref()
    });
    let text = if args.json {
        serde_json::to_string(&status)? + "\n"
    } else if status.attachments.is_empty() {
        let what = if unpinned.is_empty() {
            "on this host"
        } else {
            "that has its pins in this bpffs"
        };
        format!("nothing is steered {what}\n")
    } else {
        report::table(&status)
    };
    print::data(&text).context("failed to write the status")
}

/// The ports that steers with other layouts of the maps have, with the layouts' numbers.
fn others(pins: Option<&Pins>, port: Option<u16>) -> anyhow::Result<Vec<(u64, Port)>> {
    let mut others = match pins {
        Some(pins) => pins.of_other_layouts()?,
        None => Vec::new(),
    };
    others.retain(|(_, other)| port.is_none_or(|port| port == other.port));
    Ok(others)
}

/// The network namespace of something, as a beginning of a message. It is empty for the namespace
/// `here`.
fn place(netns: u64, here: u64) -> String {
    if netns == here {
        String::new()
    } else {
        format!("network namespace {netns}, ")
    }
}

/// Looks at an attachment of this network namespace. It takes more rights to find out what is
/// attached, and who serves the listeners that aren't steered. Without these rights, both stay
/// open.
fn look(snapshot: &Snapshot) -> anyhow::Result<Seen> {
    let listeners = sockdiag::listeners(snapshot.port.port)?;
    let netns_cookie = snapshot.port.netns_cookie;
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|listener| (key_of(netns_cookie, &listener), listener))
        .collect();
    let mut members = members(snapshot).ok();
    let cookies = listeners
        .iter()
        .map(|(_, listener)| listener.cookie)
        .collect();
    let programs = members
        .as_mut()
        .and_then(|members| members.list(&cookies).ok());
    let programs = programs.map(|listed| listed.iter().map(|member| member.program_id).collect());
    let groups = snapshot.groups.iter();
    let unsteered: BTreeSet<u64> = groups
        .flat_map(|group| report::unsteered(group, &listeners))
        .map(|listener| listener.cookie)
        .collect();
    let mut why = BTreeMap::new();
    let is_followed = snapshot.loader != Holder::Nobody;
    // A look at every process is worth its cost only if there are such listeners.
    if let Some(members) = members.as_mut()
        && !unsteered.is_empty()
        && let Ok(found) = survey(
            snapshot.port,
            members,
            &mut Following::default(),
            Look::Everywhere,
        )
    {
        let found = found.iter().flat_map(|group| &group.listeners);
        why.extend(
            found
                .filter(|found| unsteered.contains(&found.listener.cookie))
                .map(|found| {
                    let why = admission::unsteered(found, snapshot.port.port, is_followed);
                    (found.listener.cookie, why)
                }),
        );
    }
    Ok(Seen {
        listeners,
        programs,
        unsteered: why,
    })
}

fn members(snapshot: &Snapshot) -> anyhow::Result<Members> {
    let root = bpffs::existing_root()?.context("there is no bpffs")?;
    let host = Pins::new(&root).host();
    Members::load(&Kernel::read()?, &host, snapshot.port.port)
}
