//! What a reader needs to know of the machine.

use std::{fs, thread};

use anyhow::Context as _;
use steer_tests::steer::steer;

/// One line each: the machine, the kernel, steer, and how busy the machine is otherwise.
pub(crate) fn describe() -> anyhow::Result<String> {
    let cpuinfo = read("/proc/cpuinfo")?;
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |line| {
            line.trim_start_matches([' ', '\t', ':'])
        });
    let cores = thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let version = steer(["--version"])?.stdout;
    let load = read("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or_default();
    let mut text = format!(
        "{cpu}, {cores} cores, Linux {}, load {load}\n{}\n",
        kernel.trim(),
        version.trim()
    );
    if read("/proc/sys/kernel/bpf_stats_enabled")?.trim() != "0" {
        text.push_str("kernel.bpf_stats_enabled is on: steered rates are lower for it\n");
    }
    Ok(text)
}

fn read(file: &str) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {file}"))
}
