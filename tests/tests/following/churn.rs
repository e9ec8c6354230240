//! Workers that join and leave under load: nothing is lost that isn't a leaving worker's, and the
//! maps follow at once.
//!
//! `STEER_CHURN_SECONDS` is for how long each of the three runs of
//! [`nothing_is_lost_but_with_its_worker`] goes.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    churn::{
        account::Account,
        crew::{Change, Crew},
        load::{Attempt, End, Load, Run},
        monitor::{FOLLOW, FOLLOW_AT_LAST, Monitor, Report, groups},
        spread::Spread,
    },
    isolate::{isolate, leftovers},
    patience::patience,
    process::eventually,
    stateful::loader::Footprint,
    steer::{Attach, status_when},
    texts,
    workers::local,
};
use steer_user::kernel::migration::{self, Trial};

/// Workers between two changes, give or take one.
const CREW: usize = 4;

/// Connections a second.
const RATE: u32 = 300;

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(150);

/// How long a loader looks at processes after a change, at most.
const CALM: Duration = Duration::from_secs(1);

/// How much a loader's memory may grow, in KiB.
const GROWTH_KIB: u64 = 1024;

/// Joins of which the time until the first steered connection is measured.
const JOINS: usize = 100;

/// One step of the churn.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Workers come and go at once.
    Change(Change),
    /// All leave at once, then others come at once.
    Restart,
}

/// One cycle: it ends with as many workers as it began with.
const CYCLE: [Step; 6] = [
    join_stop_kill(1, 0, 0),
    join_stop_kill(0, 1, 0),
    join_stop_kill(1, 0, 0),
    join_stop_kill(0, 0, 1),
    join_stop_kill(2, 1, 1),
    Step::Restart,
];

const fn join_stop_kill(join: usize, stop: usize, kill: usize) -> Step {
    Step::Change(Change { join, stop, kill })
}

/// What is asserted of each run, the one under the kernel's hash included:
///
/// - Every connection that was opened was served, reset, refused or hung, and none of them hung.
/// - Each one that was reset (or closed before the whole answer) was established with a worker that
///   had been sent SIGKILL before; or with one that had been sent SIGTERM, and then after that
///   worker had seen its accept queue empty for the last time and before it had closed its listener.
///   No worker can help that by itself. Under steer, where the kernel migrates soundly, such a reset must
///   lie in a restart of all workers at once, when nobody is left to migrate to, or have come before the
///   client knew that the connection was established (docs/restarts.md).
/// - Each one that was refused was under way while all workers restarted at once.
///
/// And of those under steer: the maps have followed every change, no worker, present or past, has a
/// connection left in `active`, and the loader has as many descriptors as before, and no more memory.
#[test]
#[ignore = "privileged"]
fn nothing_is_lost_but_with_its_worker() -> anyhow::Result<()> {
    isolate()?;
    let seconds: u64 = env::var("STEER_CHURN_SECONDS").map_or(Ok(5), |text| text.parse())?;
    let mut table = format!(
        "churn: {RATE} connections/s over {CREW} workers, {seconds} s each\n\
         {:<6} {:>7} {:>7} {:>8} {:>13} {:>13} {:>8} {:>5} {:>6} {:>5}\n",
        "",
        "sent",
        "served",
        "migrated",
        "reset SIGKILL",
        "reset SIGTERM",
        "refused",
        "hung",
        "joined",
        "left"
    );
    for policy in [None, Some("rr"), Some("least")] {
        let name = policy.unwrap_or("hash");
        run(policy, Duration::from_secs(seconds), &mut table).with_context(|| name.to_owned())?;
    }
    say(&table)
}

fn run(policy: Option<&str>, duration: Duration, table: &mut String) -> anyhow::Result<()> {
    let mut crew = Crew::start(local(PORT), CREW)?;
    let mut attach = policy
        .map(|policy| Attach::start(PORT, policy, &[]))
        .transpose()?;
    let monitor = attach
        .is_some()
        .then(|| Monitor::start(PORT, Duration::from_millis(2)));
    let before = attach.as_ref().map(calm).transpose()?;
    let load = Load::start(local(PORT), RATE);
    let end = Instant::now() + duration;
    while Instant::now() < end {
        for step in CYCLE {
            thread::sleep(PAUSE);
            match step {
                Step::Change(change) => crew.change(change)?,
                Step::Restart => crew.restart()?,
            }
        }
    }
    // Those who came last get something too.
    thread::sleep(PAUSE);
    let run = load.finish()?;
    let migrates = policy.is_some() && migration::trial()? == Trial::Sound;
    let account = Account::new(&run, &crew, migrates);
    writeln!(
        table,
        "{:<6} {:>7} {:>7} {:>8} {:>13} {:>13} {:>8} {:>5} {:>6} {:>5}",
        policy.unwrap_or("hash"),
        account.sent,
        account.served,
        account.moved,
        account.killed,
        account.closing,
        account.refused,
        account.hung,
        crew.joined.len(),
        crew.left.len()
    )?;
    writeln!(table, "       served after {}", account.took)?;
    ensure!(
        account.adds_up() && account.hung == 0 && account.served > 0,
        "{account:#?}"
    );

    if let (Some(mut attach), Some(monitor)) = (attach.take(), monitor) {
        steered(&crew, &run, monitor, table)?;
        let after = calm(&attach)?;
        writeln!(
            table,
            "       the loader before: {before:?}; after: {after:?}"
        )?;
        ensure!(
            before.is_some_and(|before| after.descriptors == before.descriptors
                && after.data <= before.data + GROWTH_KIB),
            "the loader had {before:?} before, {after:?} after"
        );
        let said = attach.said();
        let warnings: Vec<&str> = said
            .lines()
            .filter(|line| !line.starts_with(texts::attach::STEERING))
            .collect();
        ensure!(warnings.is_empty(), "steer said {warnings:#?}");
        attach.detach()?;
        let left = leftovers()?;
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}

/// What a loader has when it has nothing left to look at.
fn calm(attach: &Attach) -> anyhow::Result<Footprint> {
    thread::sleep(CALM);
    Footprint::of(attach.pid())
}

/// What must hold of the maps after a run under steer.
fn steered(crew: &Crew, run: &Run, monitor: Monitor, table: &mut String) -> anyhow::Result<()> {
    monitor.equals(crew.members.len(), FOLLOW_AT_LAST)?;
    let report = monitor.finish()?;
    let (in_map, selected) = joins(crew, &report);
    writeln!(
        table,
        "       maps equal the listeners after {}",
        report.delays
    )?;
    writeln!(
        table,
        "       {} of them after more than {FOLLOW:?}; the longest pause between two looks: {:?}",
        report.delays.over(FOLLOW),
        report.longest_pause
    )?;
    if report.delays.over(FOLLOW) > 0 {
        writeln!(table, "       the longest: {}", report.longest)?;
    }
    writeln!(table, "       in the maps after listen() by {in_map}")?;
    writeln!(table, "       first steered after listen() by {selected}")?;
    ensure!(
        report.delays.percentile(50) <= FOLLOW.max(report.longest_pause)
            && report.delays.max() <= patience(FOLLOW_AT_LAST),
        "the maps equal the listeners only after {}",
        report.delays
    );

    let mut active = 0;
    let is_idle = eventually(FOLLOW_AT_LAST, || {
        let groups = groups(PORT).unwrap_or_default();
        let slots = groups.iter().flat_map(|group| &group.slots);
        active = slots.map(|(_, _, counters)| counters.active()).sum();
        !groups.is_empty() && active == 0
    });
    ensure!(is_idle, "active ends at {active}");
    let groups = groups(PORT)?;
    ensure!(groups.len() == 1, "{} groups", groups.len());
    for group in groups {
        let slots = || group.slots.iter().map(|(_, _, counters)| counters);
        let present: u64 = slots().map(|counters| counters.connections).sum();
        let counted = group.config.retired_connections + present;
        // A connection that migrates counts for both workers, a handshake that does for the second.
        let migrated: u64 = slots().map(|counters| counters.migrated).sum();
        let migrated = u64::from(group.config.retired_migrated) + migrated;
        let attempts = run.attempts.iter().filter(|one| one.worker.is_some());
        let established = attempts.clone().count() as u64;
        writeln!(
            table,
            "       {counted} of {established} connections counted, {migrated} of which may have migrated, SYNs \
             left to the kernel's hash: {:?}",
            group.counters.hashed
        )?;
        let excused = attempts.filter(|one| excused(one, crew, &report)).count() as u64;
        ensure!(
            (established.saturating_sub(excused)..=established + migrated).contains(&counted),
            "{counted} connections are counted of {established}, of which {excused} need not be and {migrated} \
             migrations may be"
        );
    }
    Ok(())
}

/// Whether steer needs not have counted an established connection: it was opened before the maps had
/// its worker, or was never established for the kernel of a worker that left.
fn excused(attempt: &Attempt, crew: &Crew, report: &Report) -> bool {
    let joined = crew.joined.iter();
    let mut joined = joined.filter(|joined| Some(joined.mark) == attempt.worker);
    let seen = joined.find_map(|joined| report.slots.get(&joined.pid));
    attempt.end != End::Served || seen.is_none_or(|seen| attempt.opened <= seen.in_map)
}

/// How long after listen() the workers that joined were in the maps, and were first selected.
fn joins(crew: &Crew, report: &Report) -> (Spread, Spread) {
    let (mut in_map, mut selected) = (Spread::default(), Spread::default());
    // Those of the beginning were there before steer.
    for joined in &crew.joined[CREW..] {
        if let Some(seen) = report.slots.get(&joined.pid) {
            in_map.add(seen.in_map.saturating_sub(joined.listened));
            if let Some(at) = seen.selected {
                selected.add(at.saturating_sub(joined.listened));
            }
        }
    }
    (in_map, selected)
}

#[test]
#[ignore = "privileged"]
fn a_new_worker_is_steered_at_once() -> anyhow::Result<()> {
    isolate()?;
    let mut table = format!("joins: {JOINS} under {RATE} connections/s over {CREW} workers\n");
    for policy in ["rr", "least"] {
        let mut crew = Crew::start(local(PORT), CREW)?;
        let attach = Attach::start(PORT, policy, &[])?;
        let monitor = Monitor::start(PORT, Duration::from_micros(500));
        let load = Load::start(local(PORT), RATE);
        for _ in 0..JOINS {
            crew.change(Change {
                join: 1,
                ..Change::default()
            })?;
            let newest = crew.joined[crew.joined.len() - 1];
            monitor.selected(newest.pid, Duration::from_secs(1))?;
            crew.change(Change {
                stop: 1,
                ..Change::default()
            })?;
        }
        let account = Account::new(&load.finish()?, &crew, migration::trial()? == Trial::Sound);
        ensure!(account.adds_up() && account.hung == 0, "{account:#?}");
        let report = monitor.finish()?;
        let (in_map, selected) = joins(&crew, &report);
        ensure!(selected.count() == JOINS, "{selected}");
        writeln!(
            table,
            "{policy:<6} from listen() until in the maps: {in_map}"
        )?;
        writeln!(
            table,
            "       from listen() until first steered: {selected}"
        )?;
        attach.detach()?;
    }
    say(&table)
}

#[test]
#[ignore = "privileged"]
fn map_equals_listeners() -> anyhow::Result<()> {
    isolate()?;
    let mut crew = Crew::start(local(PORT), CREW)?;
    let attach = Attach::start(PORT, "rr", &[])?;
    let monitor = Monitor::start(PORT, Duration::from_millis(1));
    let steps = [
        join_stop_kill(5, 0, 0),
        join_stop_kill(0, 2, 0),
        join_stop_kill(0, 0, 1),
        Step::Restart,
        join_stop_kill(3, 2, 2),
        Step::Restart,
    ];
    for step in steps {
        match step {
            Step::Change(change) => crew.change(change)?,
            Step::Restart => crew.restart()?,
        }
        monitor
            .equals(crew.members.len(), FOLLOW_AT_LAST)
            .with_context(|| format!("{step:?}"))?;
        let mut pids: Vec<u32> = crew
            .members
            .iter()
            .map(|member| member.joined.pid)
            .collect();
        pids.sort_unstable();
        status_when(PORT, |seen| {
            let mut live: Vec<u32> = seen.live().map(|worker| worker.pid).collect();
            live.sort_unstable();
            live == pids && seen.unsteered() == 0
        })
        .with_context(|| format!("not {pids:?} after {step:?}"))?;
    }
    let report = monitor.finish()?;
    ensure!(
        report.delays.max() <= patience(FOLLOW_AT_LAST),
        "the maps equal the listeners only after {}",
        report.delays
    );
    say(&format!(
        "maps equal the listeners after {}\n",
        report.delays
    ))?;
    attach.detach()
}

/// Past libtest's capture, which would hide the numbers of a run that passes.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(io::stderr().write_all(text.as_bytes())?)
}
