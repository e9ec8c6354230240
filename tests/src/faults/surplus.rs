//! More workers than steer has slots for.

use super::Row;
use crate::{
    PORT, census,
    steer::{Attach, status},
    texts,
    workers::{Worker, local},
};

/// Slots of a group.
const SLOTS: usize = 256;

/// Workers beyond them.
const SURPLUS: usize = 64;

const CONNECTIONS: usize = 3200;

pub(super) fn inject() -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new("steer, rr");
    // One process may own several listeners, each of which is a worker.
    let bind = ["--bind", "127.0.0.1:3000"].repeat(SLOTS + SURPLUS);
    let _worker = Worker::start_with(&bind)?;
    let mut attach = Attach::start(PORT, "rr", &[])?;
    row.add_census(census::one_by_one(local(PORT), CONNECTIONS)?);
    let seen = status(PORT)?;
    let said = attach.said();
    attach.detach()?;
    let group = &seen.groups[0];
    let surplus = texts::attach::surplus(SURPLUS, SLOTS);
    row.check_all_served();
    row.check(said.contains(&surplus), format!("says \"{surplus}\""));
    // A fifth of the members by the hash: 640 of 3200, give or take five standard deviations.
    row.check(
        (530..=750).contains(&group.hashed) && group.hashed_why["unknown_worker"] == group.hashed,
        format!(
            "{} left to the hash, which is the surplus's fifth; the others in turn",
            group.hashed
        ),
    );
    row.check(
        group.selected + group.hashed == CONNECTIONS as u64,
        "selected and left to the hash add up",
    );
    Ok(vec![row])
}
