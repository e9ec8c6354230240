//! `steer status`: what the kernel has counted and where it stands.

use anyhow::Context as _;
use clap::Args;

use crate::{
    abandoned, absent,
    bpffs::{self, Use},
    host,
    loading::Kernel,
    members::Members,
    netns,
    output::{self, message},
    pins::{Pins, Port},
    privilege,
    report::{self, Seen},
    snapshot::{self, Snapshot},
    sockdiag,
    survey::key_of,
};

/// Arguments of `steer status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only this TCP port
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints every attachment of the host, or that of one port.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    privilege::require(&privilege::for_maps(Use::Read))?;
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
    // What steers of other mount namespaces do in other network namespaces is theirs.
    let tracker = pins.as_ref().and_then(host::tracker);
    let unpinned = abandoned::unpinned(tracker, |program| {
        let key = &program.key;
        let is_asked = args.port.is_none_or(|port| key.port == u32::from(port));
        is_asked && (key.netns_cookie == here || !program.is_tracked)
    });
    for left in &unpinned {
        let netns = left.key.netns_cookie;
        let place = if netns == here {
            String::new()
        } else {
            format!("network namespace {netns}, ")
        };
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
        match unpinned.is_empty() {
            true => "nothing is steered on this host\n".into(),
            false => "nothing is steered that has its pins here\n".into(),
        }
    } else {
        report::table(&status)
    };
    output::data(&text).context("failed to write the status")
}

/// What can be seen of an attachment in this namespace. Which program is attached takes
/// CAP_PERFMON to find out, and is left open without it.
fn look(snapshot: &Snapshot) -> anyhow::Result<Seen> {
    let listeners = sockdiag::listeners(snapshot.port.port)?;
    let netns_cookie = snapshot.port.netns_cookie;
    Ok(Seen {
        listeners: listeners
            .into_iter()
            .map(|listener| (key_of(netns_cookie, &listener), listener))
            .collect(),
        programs: programs(snapshot).ok(),
    })
}

fn programs(snapshot: &Snapshot) -> anyhow::Result<Vec<u32>> {
    let root = bpffs::existing_root()?.context("there is no bpffs")?;
    let host = Pins::new(&root).host();
    let mut members = Members::load(&Kernel::read()?, &host, snapshot.port.port)?;
    let members = members.list()?;
    Ok(members.iter().map(|member| member.program_id).collect())
}
