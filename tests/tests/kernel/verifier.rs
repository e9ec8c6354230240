//! How much the kernel's verifier has to look at: older ones recognise less of what they have seen
//! before, and refuse a program after a million instructions.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use anyhow::{Context as _, ensure};
use aya::programs::loaded_programs;
use steer_common::names;
use steer_tests::{
    PORT,
    fixture::with_workers,
    steer::{Attach, nothing_is_left},
};

/// A quarter of what the verifier looks at.
const MOST: u32 = 250_000;

const PROGRAMS: [&str; 9] = [
    names::PROGRAM_SELECT,
    names::PROGRAM_MIGRATE,
    names::PROGRAM_TRACK,
    names::PROGRAM_TRACK_AGAIN,
    names::PROGRAM_RECOUNT,
    names::PROGRAM_DESTROYED,
    names::PROGRAM_READS,
    names::PROGRAM_MEMBERS,
    names::PROGRAM_HOLDERS,
];

#[test]
#[ignore = "privileged"]
fn every_program_is_far_from_the_verifiers_limit() -> anyhow::Result<()> {
    let _workers = with_workers(2)?;
    let mut verified = BTreeMap::new();
    for migrate in ["on", "off"] {
        let attach = Attach::start(PORT, "rr", &["--migrate", migrate])?;
        for program in loaded_programs().filter_map(Result::ok) {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            if PROGRAMS.contains(&name.as_str()) {
                let count = program
                    .verified_instruction_count()
                    .context("needs Linux 5.16")?;
                let most = verified.entry(name).or_insert(0);
                *most = count.max(*most);
            }
        }
        attach.detach()?;
    }
    // Past libtest's capture: on another kernel it is another number.
    writeln!(
        io::stderr(),
        "instructions that were verified: {verified:?}"
    )?;
    for program in PROGRAMS {
        let count = verified.get(program).copied();
        ensure!(
            count.is_some_and(|count| (1..MOST).contains(&count)),
            "{program}: {verified:?}"
        );
    }
    nothing_is_left(PORT, 2)
}
