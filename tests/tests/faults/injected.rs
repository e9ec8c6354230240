//! The faults of `cargo xtask faults` that take seconds: what each is expected to do holds.

use anyhow::{Context as _, ensure};
use steer_tests::faults;

fn holds(name: &str) -> anyhow::Result<()> {
    let fault = faults::named(name).with_context(|| format!("no fault is named {name}"))?;
    let rows = fault.run();
    ensure!(
        !rows.is_empty() && rows.iter().all(|row| row.is_checked() && row.holds()),
        "{}",
        faults::markdown(&[(fault, rows)])
    );
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn bursts_that_the_accept_queues_do_not_take() -> anyhow::Result<()> {
    holds("overflow")
}

#[test]
#[ignore = "privileged"]
fn too_few_descriptors() -> anyhow::Result<()> {
    holds("descriptors")
}

#[test]
#[ignore = "privileged"]
fn more_events_than_the_ring_buffer_takes() -> anyhow::Result<()> {
    holds("overrun")
}

#[test]
#[ignore = "privileged"]
fn another_program_attached_over_steers() -> anyhow::Result<()> {
    holds("displaced")
}

#[test]
#[ignore = "privileged"]
fn an_unmounted_bpffs() -> anyhow::Result<()> {
    holds("unmounted")
}

#[test]
#[ignore = "privileged"]
fn a_program_whose_steer_and_pins_are_gone() -> anyhow::Result<()> {
    holds("orphaned")
}

#[test]
#[ignore = "privileged"]
fn clocks_that_jump() -> anyhow::Result<()> {
    holds("clocks")
}
