//! `cargo xtask demo`

use anyhow::Result;
use xtask::command;

use super::build;

pub(crate) fn demo() -> Result<()> {
    let steer = build()?;
    command::run(command::as_root(steer)?.arg("demo"))
}
