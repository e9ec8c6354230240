//! Everything that can be done to the steered ports of a host, at random and under load, beside a model: the
//! maps follow each step, what is counted is what the kernel lists, each worker has its share, nothing is
//! lost but with its worker, and nothing is left behind.
//!
//! `STEER_STATEFUL_SECONDS` is for how long it goes, `STEER_STATEFUL_SEED` repeats the steps of a
//! run that failed.

use std::{
    env,
    io::{self, Write as _},
    rc::Rc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use steer_common::policy::Policy;
use steer_tests::{
    isolate::isolate,
    stateful::{
        host::Host,
        place::Place,
        port::Port,
        random::Random,
        step::{Act, Lead},
        words::Kind,
    },
    trial::migrates_for,
};

#[test]
#[ignore = "privileged"]
fn the_maps_follow_every_step_and_nothing_is_left() -> anyhow::Result<()> {
    isolate()?;
    if !migrates_for("the_maps_follow_every_step_and_nothing_is_left")? {
        return Ok(());
    }
    let seconds = number("STEER_STATEFUL_SECONDS")?.unwrap_or(10);
    let clock = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_micros() as u64)
    };
    let seed = number("STEER_STATEFUL_SEED")?.unwrap_or_else(clock);
    // Beforehand, for whoever has to end a run that doesn't.
    say(&format!("STEER_STATEFUL_SEED={seed}\n"))?;
    let mut host = Host::start(Random::new(seed))?;
    let result = host.run(Duration::from_secs(seconds));
    let result = result.and_then(|()| host.finish());
    result.with_context(|| {
        let story = host.story();
        format!("with STEER_STATEFUL_SEED={seed}, after these steps:\n{story}\n")
    })?;
    say(&host.report(seconds, seed))
}

#[test]
#[ignore = "privileged"]
fn what_a_killed_process_had_accepted_is_known_where_its_unit_goes_on() -> anyhow::Result<()> {
    isolate()?;
    let name = "what_a_killed_process_had_accepted_is_known_where_its_unit_goes_on";
    if !migrates_for(name)? {
        return Ok(());
    }
    let mut random = Random::new(7);
    let place = Rc::new(Place::here()?);
    let mut port = Port::start(&place, 3000, &[Kind::Prefork])?;
    let begun = port.begin(Lead::Attach(Policy::Rr))?;
    port.complete(begun)?;
    // Each takes what its process was about, one time in six or so.
    for _ in 0..40 {
        port.act(Act::Replace(0, 0), &mut random)?;
    }
    port.finish(&mut random)
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let number = env::var(variable).ok().map(|text| text.parse());
    number
        .transpose()
        .with_context(|| format!("{variable} is no number"))
}

/// Past libtest's capture: the numbers are what the test is for.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(io::stderr().write_all(text.as_bytes())?)
}
