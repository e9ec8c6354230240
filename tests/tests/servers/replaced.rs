//! Real servers whose workers are replaced under load: every connection is accounted for, `rr` is exact
//! afterwards, and `least` is never worse than the kernel's hash, whenever it is attached.
//!
//! `cargo xtask test --servers` runs it. `STEER_RESTARTS` is how often each is reloaded or restarted. What it
//! prints are the tables of docs/restarts.md.

use std::{
    env,
    fmt::Write as _,
    io::{self, Write as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use steer_tests::{
    PORT,
    census::{self, Census},
    churn::{
        claims::Claims,
        ends::Ends,
        load::{End, Load, Plan, Run},
        now,
        spread::Spread,
    },
    process::eventually,
    servers::{self, Room},
    skip::skip,
    steer::Attach,
    texts,
    workers::local,
};

use crate::real::{Kind, Server, WORKERS};

/// Connections a second while workers are replaced.
const RATE: u32 = 100;

/// From one replacement to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a connection of these may take: a worker that starts keeps what waits for it.
const HUNG: Duration = Duration::from_secs(60);

/// How long it may take until `rr` is exact after the last replacement.
const SETTLES: Duration = Duration::from_secs(60);

/// Each worker's connections in a proof that `rr` is exact.
const EACH: usize = 10;

/// What keeps the workers busy: about six tenths of what four can do that serve one connection at a time.
const WORK: Plan = Plan {
    rate: 85,
    long_every: 10,
    long: 100,
    short: 20,
    within: HUNG,
};

/// How long waits are measured.
const MEASURED: Duration = Duration::from_secs(8);

/// How long the load goes on before steer is attached to busy workers.
const BUSY: Duration = Duration::from_secs(1);

/// How long it may take until what waited during a reload is served.
const BACKLOG: Duration = Duration::from_secs(3);

/// By how much `least` may exceed the hash, in the mean and in the 99th percentile: what a busy machine
/// adds to either.
const MARGIN: (f64, Duration) = (1.3, Duration::from_millis(15));
const MARGIN_P99: (f64, Duration) = (1.5, Duration::from_millis(60));

/// When steer is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    Idle,
    Busy,
    InReload,
}

/// Past libtest's capture: the numbers are what the test is for.
fn say(text: &str) -> io::Result<()> {
    io::stderr().write_all(text.as_bytes())
}

fn restarts() -> anyhow::Result<usize> {
    match env::var("STEER_RESTARTS") {
        Ok(text) => text.parse().context("STEER_RESTARTS is no number"),
        Err(_) => Ok(50),
    }
}

/// Replaces workers under load, without steer or with it; says what became of the connections.
fn replace(server: &mut dyn Server, restarts: usize) -> anyhow::Result<Ends> {
    let plan = Plan {
        within: HUNG,
        ..Plan::at(RATE)
    };
    let load = Load::start_plan(local(PORT), plan);
    for number in 0..restarts {
        thread::sleep(PAUSE);
        let replaced = server.begin(number).and_then(|()| server.finish());
        replaced.with_context(|| format!("restart {number}"))?;
    }
    thread::sleep(PAUSE);
    Ok(Ends::new(&load.finish()?, Claims::default()))
}

fn is_exact() -> anyhow::Result<()> {
    let mut last = Census::default();
    let exact = eventually(SETTLES, || {
        last = census::one_by_one(local(PORT), EACH * WORKERS).unwrap_or_default();
        last.served.len() == WORKERS && last.served.values().all(|count| *count == EACH)
    });
    ensure!(exact, "rr isn't exact: {last:?}");
    Ok(())
}

fn account(kind: Kind, server: &mut dyn Server) -> anyhow::Result<()> {
    let restarts = restarts()?;
    for steered in [false, true] {
        let attach = steered
            .then(|| Attach::start(PORT, "rr", &[]))
            .transpose()?;
        if steered {
            is_exact().context("before")?;
        }
        let ends = replace(server, restarts)?;
        let by = if steered {
            "steer, `rr`"
        } else {
            "the kernel's hash"
        };
        let reset = ends.waiting.len() + ends.accepted + ends.closing;
        say(&format!(
            "| {} | {by} | {restarts} | {} | {} | {reset} | {} | {} |\n",
            kind.name(),
            ends.sent,
            ends.served,
            ends.refused,
            ends.hung
        ))?;
        ensure!(
            ends.adds_up() && ends.hung == 0 && ends.served > 0,
            "{ends:?}"
        );
        if let Some(attach) = attach {
            is_exact().context("after")?;
            attach.detach()?;
        }
    }
    Ok(())
}

/// How long the connections took that were opened from `from` on, and served: gunicorn resets some by itself.
fn waits(run: &Run, from: Duration) -> anyhow::Result<Spread> {
    let mut waits = Spread::default();
    for attempt in run.attempts.iter().filter(|attempt| attempt.opened >= from) {
        ensure!(
            matches!(attempt.end, End::Served | End::Reset | End::Cut),
            "{attempt:?}"
        );
        waits.add(attempt.ended.saturating_sub(attempt.opened));
    }
    ensure!(waits.count() > 0, "nobody waited for an answer");
    Ok(waits)
}

fn measure(server: &mut dyn Server, when: When) -> anyhow::Result<Spread> {
    let attach = || Attach::start(PORT, "least", &[]).map(Some);
    let mut attached = if when == When::Idle { attach()? } else { None };
    let load = Load::start_plan(local(PORT), WORK);
    thread::sleep(BUSY);
    match when {
        When::Never | When::Idle => {}
        When::Busy => attached = attach()?,
        When::InReload => {
            server.begin(0)?;
            // It waits where nothing listens.
            let mut attach = Attach::spawn(PORT, "least", &[])?;
            server.finish()?;
            attach.wait_line(texts::attach::STEERING)?;
            attached = Some(attach);
            // What has waited meanwhile is nobody's choice.
            thread::sleep(BACKLOG);
        }
    }
    let from = now();
    thread::sleep(MEASURED);
    let run = load.finish()?;
    if let Some(attach) = attached {
        attach.detach()?;
    }
    waits(&run, from)
}

fn compare(kind: Kind, server: &mut dyn Server) -> anyhow::Result<()> {
    let mut row = format!("| {} |", kind.name());
    let mut hash: Option<Spread> = None;
    let mut worse = Vec::new();
    let ms = |duration: Duration| 1000.0 * duration.as_secs_f64();
    for when in [When::Never, When::Idle, When::Busy, When::InReload] {
        let waits = measure(server, when).with_context(|| format!("{when:?}"))?;
        let (mean, p99) = (waits.mean(), waits.percentile(99));
        write!(row, " {:.1} / {:.0} |", ms(mean), ms(p99))?;
        let exceeds = |value: Duration, than: Duration, (factor, more): (f64, Duration)| {
            value > than.mul_f64(factor) + more
        };
        match &hash {
            None => hash = Some(waits),
            Some(hash) => {
                if exceeds(mean, hash.mean(), MARGIN)
                    || exceeds(p99, hash.percentile(99), MARGIN_P99)
                {
                    worse.push(format!("{when:?}: {waits:?} against {hash:?}"));
                }
            }
        }
    }
    say(&format!("{row}\n"))?;
    ensure!(worse.is_empty(), "worse than the hash: {worse:?}");
    Ok(())
}

/// Starts a server and has something done to it.
fn with(
    test: &str,
    kind: Kind,
    then: impl FnOnce(Kind, &mut dyn Server) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let installed = match kind.install() {
        Ok(installed) => installed,
        Err(reason) => return skip(test, &reason),
    };
    let _room = Room::enter()?;
    let mut server = kind.start(&installed)?;
    servers::pids(local(PORT), WORKERS)?;
    then(kind, &mut *server)
}

macro_rules! servers {
    ($($name:ident: $kind:expr,)*) => {
        mod every_connection_is_accounted_for {
            use super::*;
            $(#[test]
            #[ignore = "privileged"]
            fn $name() -> anyhow::Result<()> {
                with(stringify!($name), $kind, account)
            })*
        }

        mod least_is_no_worse_than_the_hash {
            use super::*;
            $(#[test]
            #[ignore = "privileged"]
            fn $name() -> anyhow::Result<()> {
                with(stringify!($name), $kind, compare)
            })*
        }
    };
}

servers! {
    nginx: Kind::Nginx,
    gunicorn_sync: Kind::GunicornSync,
    gunicorn_with_a_helper: Kind::GunicornHelper,
    gunicorn_max_requests: Kind::GunicornMaxRequests,
    gunicorn_with_threads: Kind::GunicornThreads,
    uwsgi: Kind::Uwsgi,
    select: Kind::Select,
    haproxy_pause: Kind::HaproxyPause,
    haproxy_reload: Kind::HaproxyReload,
    node_cluster: Kind::NodeCluster,
    bun: Kind::Bun,
}
