//! Counts the connections that workers had before they were steered.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::Path,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::Iter,
};
use steer_common::{names, slot::Tag};

use crate::{
    loading::{Constants, Kernel},
    procfd,
    sockdiag::{self, Connection},
    verifier,
};

/// Counts the open connections of processes for their slots, as far as they carry no tag yet.
///
/// A connection belongs to the process that has it open, so one that waits to be accepted is nobody's
/// and left out. Linux 5.9; before 5.15 one that is closed at the very moment may stay counted.
pub fn count(
    kernel: &Kernel,
    host: &Path,
    port: u16,
    workers: &[(u32, Tag)],
) -> anyhow::Result<()> {
    let tags = tags(&sockdiag::connections(port)?, workers)?;
    if tags.is_empty() {
        return Ok(());
    }
    let constants = Constants {
        port: u32::from(port),
        earlier: tags.len() as u32,
        ..Constants::default()
    };
    let mut ebpf = kernel.load(constants, host, None)?;
    fill(&mut ebpf, &tags)?;
    let program: &mut Iter = ebpf
        .program_mut(names::PROGRAM_EARLIER)
        .context("the kernel object has no iterator over connections")?
        .try_into()?;
    program
        .load(names::ITERATOR, &kernel.btf)
        .map_err(|error| verifier::failure(names::PROGRAM_EARLIER, error))?;
    let link = program.attach()?;
    let mut file = program.take_link(link)?.into_file()?;
    // It writes nothing; reading makes it run.
    file.read_to_end(&mut Vec::new())
        .context("failed to go through the connections")?;
    log::debug!("{} earlier connections", tags.len());
    Ok(())
}

/// The tag of each connection that one of the workers has open.
fn tags(connections: &[Connection], workers: &[(u32, Tag)]) -> anyhow::Result<BTreeMap<u64, Tag>> {
    let inodes: BTreeSet<u64> = connections
        .iter()
        .map(|connection| connection.inode)
        .filter(|inode| *inode != 0)
        .collect();
    let mut tags = BTreeMap::new();
    if inodes.is_empty() {
        return Ok(tags);
    }
    for (pid, tag) in workers {
        let held = procfd::held(*pid, &inodes)?;
        for connection in connections {
            if held.contains(&connection.inode) {
                // A process with several workers: the first one stands for all.
                tags.entry(connection.cookie).or_insert(*tag);
            }
        }
    }
    Ok(tags)
}

fn fill(ebpf: &mut Ebpf, tags: &BTreeMap<u64, Tag>) -> anyhow::Result<()> {
    let map = ebpf
        .map_mut(names::MAP_EARLIER)
        .context("the kernel object has no map of earlier connections")?;
    let mut map: HashMap<&mut MapData, u64, Tag> = HashMap::try_from(map)?;
    for (cookie, tag) in tags {
        map.insert(cookie, tag, 0)?;
    }
    Ok(())
}
