//! The list of a port's listeners ends with the last of them: after it the kernel would go through the table of
//! connections of the whole host.

use std::{collections::BTreeSet, fs, io, path::Path};

use anyhow::{Context as _, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use steer_common::names::PROGRAM_MEMBERS;
use steer_tests::{PORT, isolate::isolate, server::Server};
use steer_user::{kernel::loading::Kernel, survey::members::Members, sys::sockdiag};

/// Where the maps that ports share would be pinned.
const HOST: &str = "/sys/fs/bpf/host";

#[test]
#[ignore = "privileged"]
fn a_list_ends_with_the_last_listener() -> anyhow::Result<()> {
    isolate()?;
    let _statistics = enable_stats(Stats::RunTime)?;
    fs::create_dir(HOST)?;
    let mut members = Members::load(&Kernel::read()?, Path::new(HOST), PORT)?;
    let program = own_program(PROGRAM_MEMBERS)?;
    ensure!(members.list(&BTreeSet::new())?.is_empty());
    ensure!(runs(program)? == 0, "nobody listens");
    // Each in namespaces that have no other socket. More than a read's buffer takes at the end.
    for count in [1, 2, 600] {
        let server = Server::start(PORT, count)?;
        let cookies = cookies()?;
        ensure!(cookies.len() == count);
        let before = runs(program)?;
        ensure!(listed(&mut members, &cookies)? == cookies);
        // One more for each buffer that was full; the end of the kernel's walk would be another.
        let calls = runs(program)? - before;
        ensure!(
            calls as usize >= count && (count > 2 || calls as usize == count),
            "{calls} calls for {count} listeners"
        );
        // One has gone since, or comes where another was: the walk goes to the end.
        let mut others = cookies.clone();
        others.pop_first().context("no listener")?;
        others.insert(u64::MAX);
        ensure!(listed(&mut members, &others)? == cookies);
        let more: BTreeSet<u64> = cookies.iter().copied().chain([u64::MAX]).collect();
        ensure!(listed(&mut members, &more)? == cookies);
        drop(server);
    }
    Ok(())
}

fn listed(members: &mut Members, cookies: &BTreeSet<u64>) -> anyhow::Result<BTreeSet<u64>> {
    let listed = members.list(cookies)?;
    let found: BTreeSet<u64> = listed.iter().map(|member| member.cookie).collect();
    ensure!(found.len() == listed.len(), "one is listed twice");
    Ok(found)
}

fn cookies() -> anyhow::Result<BTreeSet<u64>> {
    let listeners = sockdiag::listeners(PORT)?;
    Ok(listeners.iter().map(|listener| listener.cookie).collect())
}

fn runs(id: u32) -> anyhow::Result<u64> {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .map(|program| program.run_count())
        .context("the program isn't loaded any more")
}

/// The id of a program that this process has loaded: others of the host may have the same name.
fn own_program(name: &str) -> anyhow::Result<u32> {
    let mut own = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        match fs::read_to_string(entry?.path()) {
            Ok(info) => own.extend(
                info.lines()
                    .find_map(|line| line.strip_prefix("prog_id:"))
                    .and_then(|id| id.trim().parse::<u32>().ok()),
            ),
            // The descriptor of the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| own.contains(&program.id()) && program.name_as_str() == Some(name))
        .map(|program| program.id())
        .with_context(|| format!("no program {name}"))
}
