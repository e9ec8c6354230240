//! `cargo xtask demo`

use std::path::PathBuf;

use anyhow::Result;
use xtask::{command, say};

use super::{before_after, build};

/// Arguments of `cargo xtask demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Also draw the table, as the README's picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn demo(args: &DemoArgs) -> Result<()> {
    let steer = build()?;
    let mut demo = command::as_root(steer)?;
    demo.arg("demo");
    let Some(file) = &args.svg else {
        return command::run(&mut demo);
    };
    let table = command::output(&mut demo)?;
    say::step(format_args!("what the demo measured:\n{table}"));
    before_after::write(file, &table)
}
