//! A port that this steer doesn't find steered: by nobody, or by a version with other maps.

use std::path::Path;

use anyhow::Context as _;
use steer_common::names::LAYOUT;

use crate::{
    abandoned, bpffs,
    exit::{Exit, Fail},
    host,
    pins::{Pins, Port},
};

/// Why there is nothing to read or change.
pub fn not_steered(port: Port) -> anyhow::Error {
    let pins = match bpffs::existing_root() {
        Ok(root) => root.map(|root| Pins::new(&root)),
        Err(error) => return error.into(),
    };
    if let Some(pins) = &pins
        && let Err(error) = by_no_other(pins, port)
    {
        return error;
    }
    let tracker = pins.as_ref().and_then(host::tracker);
    let unpinned = abandoned::unpinned(tracker, |program| port.has(&program.key));
    let what = match unpinned.first() {
        Some(program) => format!("tcp {}", program.describe()),
        None => format!("tcp port {} is not steered", port.port),
    };
    Fail::new(Exit::NothingThere, what).into()
}

/// Checks that no steer whose maps have another layout has the port: they can't be taken over.
pub fn by_no_other(pins: &Pins, port: Port) -> anyhow::Result<()> {
    let other = pins
        .other_layout(port)
        .context("failed to list what is pinned")?;
    match other {
        None => Ok(()),
        Some((layout, dir)) => Err(another_version(port.port, layout, &dir).into()),
    }
}

fn another_version(port: u16, layout: u64, dir: &Path) -> Fail {
    let message = format!(
        "tcp port {port} is steered by another version of steer (its maps have layout {layout}, \
         this one's {LAYOUT}; they are pinned in {}): first run that version's `steer detach --port \
         {port}`",
        dir.display()
    );
    Fail::new(Exit::Held, message)
}
