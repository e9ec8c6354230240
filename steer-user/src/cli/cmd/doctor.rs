//! `steer doctor`: what works on this machine, what doesn't, and why.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::attach::capabilities;
use crate::{
    kernel::{
        kernel_version, lockdown,
        migration::{self, Trial},
        object, offsets, readings, yama,
    },
    output::{
        exit::{Exit, Fail},
        print,
    },
    state::bpffs,
    sys::privilege,
    sys::sockdiag,
};

/// Arguments of `steer doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at, and what was found.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    /// `ok`, `off` for what steer can do without, `missing` for what it can't do without, or
    /// `fail` if the directory for pins can't be used.
    state: &'static str,
    /// What was found, or what is lost without it.
    detail: String,
}

/// All checks.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether `steer attach` can work here.
    works: bool,
    checks: Vec<Check>,
}

/// Looks, and changes nothing. If something is missing, ends with the exit code of the first
/// thing that is.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let mut first = None;
    let mut checks = Vec::new();
    let mut require = |name, found: Result<String, anyhow::Error>, exit: Exit| match found {
        Ok(detail) => checks.push(Check {
            name,
            state: "ok",
            detail,
        }),
        Err(error) => {
            first.get_or_insert(exit);
            checks.push(Check {
                name,
                state: "missing",
                detail: format!("{error:#}"),
            });
        }
    };
    require(
        "kernel object",
        object::bytes()
            .map(|_| object::hash().unwrap_or_default().to_owned())
            .map_err(Into::into),
        Exit::Failure,
    );
    let kernel = kernel_version::require()
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(kernel_version::release()?));
    require("kernel", kernel, Exit::Unsupported);
    let readable = lockdown::require()
        .map(|()| "may be read by programs".to_owned())
        .map_err(Into::into);
    require("kernel memory", readable, Exit::Unsupported);
    let listed = sockdiag::require()
        .map(|()| "can be listed".to_owned())
        .map_err(Into::into);
    require("sockets", listed, Exit::Unsupported);
    let offsets = offsets::read();
    let types = match &offsets {
        Ok(_) => Ok("in /sys/kernel/btf/vmlinux".to_owned()),
        Err(error) => Err(anyhow::anyhow!(
            "{error}; the kernel must be built with CONFIG_DEBUG_INFO_BTF=y"
        )),
    };
    require("BTF", types, Exit::Unsupported);
    let permitted = privilege::require(&capabilities())
        .map(|()| "all that attach needs".to_owned())
        .map_err(Into::into);
    require("capabilities", permitted, Exit::NotPermitted);
    let takes = yama::require()
        .map(|()| "can be taken from workers".to_owned())
        .map_err(Into::into);
    require("listeners", takes, Exit::NotPermitted);
    checks.push(bpffs_check());
    checks.push(migration_check());
    if let Ok(offsets) = &offsets {
        for signal in readings::of(offsets) {
            checks.push(Check {
                name: signal.name,
                state: if signal.on { "ok" } else { "off" },
                detail: if signal.on {
                    "can be read".to_owned()
                } else {
                    format!("this kernel's BTF doesn't have it: {}", signal.without)
                },
            });
        }
    }
    let report = Report {
        works: first.is_none(),
        checks,
    };
    let text = if args.json {
        serde_json::to_string(&report)? + "\n"
    } else {
        table(&report)
    };
    print::data(&text).context("failed to write the report")?;
    match first {
        None => Ok(()),
        Some(exit) => {
            let what = "`steer attach` can't work here: see the lines that begin with `missing`";
            Err(Fail::new(exit, what).into())
        }
    }
}

fn migration_check() -> Check {
    let trial = migration::trial();
    Check {
        name: "migration",
        state: if matches!(trial, Ok(Trial::Sound)) {
            "ok"
        } else {
            "off"
        },
        detail: match trial {
            Ok(trial) => trial.describe().to_owned(),
            Err(error) => format!("failed to {:#}", anyhow::Error::from(error)),
        },
    }
}

fn bpffs_check() -> Check {
    let (state, detail) = match bpffs::existing_root() {
        Ok(Some(root)) => ("ok", format!("pins are in {}", root.display())),
        Ok(None) if bpffs::is_system_mounted() => ("ok", "mounted at /sys/fs/bpf".to_owned()),
        Ok(None) => (
            "ok",
            "not mounted at /sys/fs/bpf: steer will mount one of its own under /run/steer"
                .to_owned(),
        ),
        Err(error) => ("fail", format!("{:#}", anyhow::Error::from(error))),
    };
    Check {
        name: "bpffs",
        state,
        detail,
    }
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{:<8} {:<21} {}",
            check.state, check.name, check.detail
        );
    }
    text
}
