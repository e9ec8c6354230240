//! A port that this steer doesn't find steered: by nobody, or by a version with other maps.

use std::path::Path;

use anyhow::Context as _;
use steer_common::names::LAYOUT;

use crate::{
    abandoned, bpffs,
    exit::{Exit, Fail},
    pins::{Pins, Port},
};

/// Why there is nothing to read or change.
pub fn not_steered(port: Port) -> anyhow::Error {
    let none = || {
        let mut left = abandoned::all().into_iter();
        let what = match left.find(|left| port.has(&left.key)) {
            Some(left) => format!("tcp {}", left.describe()),
            None => format!("tcp port {} is not steered", port.port),
        };
        Fail::new(Exit::NothingThere, what).into()
    };
    let Some(root) = bpffs::existing_root() else {
        return none();
    };
    match by_no_other(&Pins::new(&root), port) {
        Ok(()) => none(),
        Err(error) => error,
    }
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
