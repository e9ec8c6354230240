//! Another program attached to the group over steer's.

use std::{thread, time::Duration};

use aya::programs::SkReuseport;
use steer_user::sys::listening::{ListenOptions, listen};

use super::{Row, load::Load};
use crate::{
    PORT,
    census::takes_turns,
    foreign,
    steer::{Attach, steer},
    texts,
    workers::{self, Worker, local},
};

const RATE: u32 = 200;

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    Ok(vec![without_replace()?, with_replace()?])
}

fn without_replace() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr");
    // The test has it open as well: any member of a group can be given a program.
    let listener = listen(&ListenOptions::new(local(PORT)))?;
    let _worker = Worker::start_on(&listener)?;
    let _others = workers::start(2, "127.0.0.1:3000")?;
    let mut attach = Attach::start(PORT, "rr", &[])?;
    let load = Load::start(RATE);
    thread::sleep(Duration::from_millis(300));
    foreign::attach_program(&listener)?;
    let warned = attach.wait_line(&texts::attach::displaced("127.0.0.1:3000"));
    let status = steer(["status", "--port", "3000"])?;
    SkReuseport::detach(&listener)?;
    let again = attach.wait_line(&texts::attach::steering("127.0.0.1:3000"));
    load.finish(&mut row)?;
    let turns = takes_turns(local(PORT), 3)?;
    attach.detach()?;
    row.check_all_served();
    row.check(
        warned.is_ok(),
        format!(
            "no worker came or went: says \"{}\"",
            texts::attach::DISPLACED
        ),
    );
    row.check(
        status.stdout.contains(texts::status::DISPLACED),
        "`steer status` says so too",
    );
    row.check(
        again.is_ok() && turns,
        "attaches again once the other one is detached",
    );
    Ok(row)
}

fn with_replace() -> anyhow::Result<Row> {
    let mut row = Row::new("steer, rr, --replace");
    let listener = listen(&ListenOptions::new(local(PORT)))?;
    let _worker = Worker::start_on(&listener)?;
    let _others = workers::start(2, "127.0.0.1:3000")?;
    let mut attach = Attach::start(PORT, "rr", &["--replace"])?;
    let load = Load::start(RATE);
    let mut back = 0;
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        foreign::attach_program(&listener)?;
        let warned = attach.wait_line(&texts::attach::displaced("127.0.0.1:3000"));
        let again = attach.wait_line(&texts::attach::steering("127.0.0.1:3000"));
        back += u32::from(warned.is_ok() && again.is_ok());
    }
    load.finish(&mut row)?;
    let turns = takes_turns(local(PORT), 3)?;
    attach.detach()?;
    row.check_all_served();
    row.check(
        back == 3 && turns,
        "says so, and takes its place again: three times of three",
    );
    Ok(row)
}
