//! The table of `steer status`.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write as _},
};

use steer_common::policy::Policy;

use super::{AttachmentStatus, GroupStatus, Status};
use crate::{output::plural::counted, survey::address};

/// The status in a form for people.
pub fn table(status: &Status) -> String {
    let mut text = String::new();
    for attachment in &status.attachments {
        if write_attachment(&mut text, attachment).is_err() {
            // Writing to a String can't fail.
            break;
        }
    }
    text
}

fn write_attachment(text: &mut String, attachment: &AttachmentStatus) -> std::fmt::Result {
    let port = attachment.port;
    write!(text, "tcp port {port}, policy {}", attachment.policy)?;
    match attachment.loader_pid {
        Some(pid) => writeln!(text, ", followed by steer (pid {pid})")?,
        None if attachment.followed => {
            writeln!(text, ", followed by a steer of another pid namespace")?;
        }
        None => writeln!(
            text,
            "; no steer follows it: its workers stay steered, and new ones get the share that the kernel's \
             hash gives them (`steer attach --port {port}` takes over, `steer detach --port {port}` ends it)"
        )?,
    }
    if attachment.groups.is_empty() {
        writeln!(text, "  waiting for a listener")?;
    }
    for group in &attachment.groups {
        write_group(text, attachment.policy, group)?;
    }
    for other in attachment.others.iter().flatten() {
        let listeners = counted(other.listeners, "listener");
        writeln!(
            text,
            "  {}: not steered, {listeners} of uid {}",
            address::with_device(&other.address, other.device.as_deref()),
            other.uid
        )?;
    }
    Ok(())
}

fn write_group(text: &mut String, policy: &str, group: &GroupStatus) -> std::fmt::Result {
    let v6only = if group.v6only { " (IPv6 only)" } else { "" };
    write!(
        text,
        "  {}{v6only}: {} selected",
        address::with_device(&group.address, group.device.as_deref()),
        group.selected
    )?;
    if group.cookie_acks > 0 {
        write!(text, ", {} by SYN cookie", group.cookie_acks)?;
    }
    if group.migrated > 0 {
        write!(text, ", {} migrated", group.migrated)?;
    }
    write!(text, ", {} left to the kernel's hash", group.hashed)?;
    let why: Vec<String> = group
        .hashed_why
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(why, count)| format!("{} {count}", why.replace('_', " ")))
        .collect();
    if !why.is_empty() {
        write!(text, " ({})", why.join(", "))?;
    }
    writeln!(text)?;
    if group.attached == Some(false) && !group.workers.is_empty() {
        writeln!(
            text,
            "    warning: steer's program isn't attached to this group any more; another program may \
             have displaced it"
        )?;
    }
    if !group.migrates {
        writeln!(
            text,
            "    no migration: connections that wait on a listener that closes are reset"
        )?;
    }
    if group.unsteered > 0 {
        let (s, keep, their) = match group.unsteered {
            1 => ("", "keeps", "its"),
            _ => ("s", "keep", "their"),
        };
        writeln!(
            text,
            "    {} listener{s} that steer doesn't have {keep} {their} share by the kernel's hash",
            group.unsteered
        )?;
    }
    for why in &group.unsteered_why {
        writeln!(text, "      {why}")?;
    }
    if group.excluded > 0 {
        let (s, get) = match group.excluded {
            1 => ("", "gets"),
            _ => ("s", "get"),
        };
        writeln!(
            text,
            "    {} listener{s} that nobody polls {get} nothing",
            group.excluded
        )?;
    }
    for worker in &group.workers {
        if let Some(undecided) = worker.undecided {
            writeln!(
                text,
                "    {} (pid {}): {undecided}",
                worker.comm, worker.pid
            )?;
        }
    }
    if group.workers.is_empty() {
        return writeln!(text, "    no workers");
    }
    write_event_loops(text, policy, group)?;
    write_jobs(text, policy, group)?;
    write_workers(text, group)
}

fn write_workers(text: &mut String, group: &GroupStatus) -> std::fmt::Result {
    // If a process has several listeners, their descriptors tell them apart.
    let pids: BTreeSet<u32> = group.workers.iter().map(|worker| worker.pid).collect();
    let by_descriptor = pids.len() < group.workers.len();
    let descriptor = |shown: &dyn Display| {
        let shown = by_descriptor.then(|| format!("  {shown:>4}"));
        shown.unwrap_or_default()
    };
    writeln!(
        text,
        "    {:>4}  {:>8}{}  {:<16} {:<8} {:>6}  {:>12}  {:>6}  {:>8}  {:>12}",
        "slot",
        "pid",
        descriptor(&"fd"),
        "command",
        "state",
        "weight",
        "selected",
        "share",
        "active",
        "accept queue"
    )?;
    for worker in &group.workers {
        let queue = match (worker.accept_queue, worker.backlog) {
            (Some(waiting), Some(limit)) => format!("{waiting}/{limit}"),
            _ => "-".into(),
        };
        writeln!(
            text,
            "    {:>4}  {:>8}{}  {:<16} {:<8} {:>6}  {:>12}  {:>5.1}%  {:>8}  {:>12}",
            worker.slot,
            worker.pid,
            descriptor(&worker.fd),
            worker.comm,
            worker.state,
            worker.weight,
            worker.selected,
            100.0 * worker.share,
            worker.active,
            queue
        )?;
    }
    Ok(())
}

/// Says how long jobs take, if the policy goes by that.
fn write_jobs(text: &mut String, policy: &str, group: &GroupStatus) -> std::fmt::Result {
    let jobs = &group.jobs;
    let (Some(mean), Some(p50), Some(p90), Some(p99)) =
        (jobs.mean_ms, jobs.p50_ms, jobs.p90_ms, jobs.p99_ms)
    else {
        return Ok(());
    };
    if !goes_by_event_loops(policy) || !group.event_loops {
        return Ok(());
    }
    writeln!(
        text,
        "    jobs: {} measured; the last {}: mean {mean:.1} ms, p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}",
        jobs.learned, jobs.remembered
    )
}

fn goes_by_event_loops(policy: &str) -> bool {
    policy == Policy::Least.name() || policy == Policy::P2c.name()
}

/// Says of which workers the event loop isn't known, if the policy would go by event loops.
fn write_event_loops(text: &mut String, policy: &str, group: &GroupStatus) -> std::fmt::Result {
    let unknown: Vec<String> = group
        .workers
        .iter()
        .filter(|worker| worker.state != "gone" && !worker.event_loop)
        .map(|worker| worker.pid.to_string())
        .collect();
    if !goes_by_event_loops(policy) || group.event_loops || unknown.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "    only open connections count: steer can't tell when the event loop of pid {} waits",
        unknown.join(", ")
    )
}
