//! `steer doctor` says what works here, and ends as `steer attach` would.

use anyhow::ensure;
use serde_json::Value;
use steer_tests::{
    isolate::{self, isolate},
    steer::steer,
    texts,
};
use steer_user::kernel::migration::{self, Trial};

fn doctor() -> anyhow::Result<(Option<i32>, Value)> {
    let finished = steer(["doctor", "--json"])?;
    Ok((finished.code, serde_json::from_str(&finished.stdout)?))
}

fn state<'a>(report: &'a Value, name: &str) -> Option<&'a str> {
    let checks = report["checks"].as_array()?;
    checks.iter().find(|check| check["name"] == name)?["state"].as_str()
}

#[test]
#[ignore = "privileged"]
fn everything_works_here() -> anyhow::Result<()> {
    isolate()?;
    let (ended, report) = doctor()?;
    ensure!(ended == Some(0) && report["works"] == true, "{report}");
    for name in ["kernel", "BTF", "capabilities", "bpffs", "event loop"] {
        ensure!(state(&report, name) == Some("ok"), "{name}: {report}");
    }
    let text = steer(["doctor"])?;
    let checks = report["checks"].as_array().map(Vec::len);
    ensure!(Some(text.stdout.lines().count()) == checks, "{text:?}");
    ensure!(
        text.stdout
            .lines()
            .all(|line| line.starts_with(texts::doctor::OK)
                || (line
                    .split_whitespace()
                    .take(2)
                    .eq(texts::doctor::NO_MIGRATION)
                    && migration::trial().is_ok_and(|trial| trial != Trial::Sound))),
        "{text:?}"
    );
    ensure!(isolate::leftovers()?.is_empty());
    Ok(())
}
