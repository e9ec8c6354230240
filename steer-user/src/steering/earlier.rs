//! Counts the connections that workers had before they were steered.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
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
    kernel::{
        loading::{Constants, Kernel},
        verifier,
    },
    survey::members::Members,
    sys::sockdiag::{self, Connection},
};

/// Room for connections that are made while the others are listed.
const MORE: usize = 1024;

/// Looks for connections that were born before their worker's listener had a tag.
pub struct Earlier {
    ebpf: Ebpf,
    port: u16,
}

impl Earlier {
    /// Loads the iterator, with room for all connections of the port.
    ///
    /// Minimum kernel version: 5.9. Before 5.15 a connection that is closed at that very moment
    /// may stay counted.
    pub fn load(kernel: &Kernel, host: &Path, port: u16) -> anyhow::Result<Self> {
        let room = sockdiag::connections(port)?.len() + MORE;
        let constants = Constants {
            port: u32::from(port),
            // Each connection is entered by its address and by its cookie.
            earlier: u32::try_from(2 * room)?,
            ..Constants::default()
        };
        let types = kernel.types()?;
        let mut ebpf = kernel.load(constants, host, None)?;
        let program = program(&mut ebpf)?;
        verifier::load(names::PROGRAM_RECOUNT, || {
            program.load(names::ITERATOR, &types)
        })?;
        Ok(Self { ebpf, port })
    }

    /// Counts the connections in the accept queues of listeners that have a tag by now.
    /// Connections that are born on these listeners from then on have a tag, too. So any other
    /// connection without a tag is accepted already.
    pub fn count_waiting(&mut self) -> anyhow::Result<()> {
        self.go_through()
    }

    /// Counts the connections that the processes of slots have open.
    pub fn count_accepted(
        &mut self,
        workers: &[(u32, Tag)],
        members: &mut Members,
    ) -> anyhow::Result<()> {
        let tags = tags(&sockdiag::connections(self.port)?, workers, members)?;
        log::debug!("{} connections are open", tags.len());
        let mut map = self.map()?;
        for (cookie, tag) in &tags {
            map.insert(cookie, tag, 0)?;
        }
        if !tags.is_empty() {
            self.go_through()?;
        }
        // The map is emptied because the kernel uses addresses again.
        let mut map = self.map()?;
        let keys: Vec<u64> = map.keys().collect::<Result<_, _>>()?;
        for key in keys {
            map.remove(&key)?;
        }
        Ok(())
    }

    fn map(&mut self) -> anyhow::Result<HashMap<&mut MapData, u64, Tag>> {
        let map = self
            .ebpf
            .map_mut(names::MAP_EARLIER)
            .context("the kernel object has no map of earlier connections")?;
        Ok(HashMap::try_from(map)?)
    }

    fn go_through(&mut self) -> anyhow::Result<()> {
        let program = program(&mut self.ebpf)?;
        let link = program.attach()?;
        let mut file = program.take_link(link)?.into_file()?;
        // Reading the file runs the program. What it lists isn't needed here.
        io::copy(&mut file, &mut io::sink()).context("failed to go through the connections")?;
        Ok(())
    }
}

fn program(ebpf: &mut Ebpf) -> anyhow::Result<&mut Iter> {
    Ok(ebpf
        .program_mut(names::PROGRAM_RECOUNT)
        .context("the kernel object has no iterator over connections")?
        .try_into()?)
}

/// The tag for each connection that one of the workers has open.
fn tags(
    connections: &[Connection],
    workers: &[(u32, Tag)],
    members: &mut Members,
) -> anyhow::Result<BTreeMap<u64, Tag>> {
    // A connection that waits to be accepted has no inode.
    let accepted = connections
        .iter()
        .filter(|connection| connection.inode != 0);
    let cookies: BTreeMap<u64, u64> = accepted
        .map(|connection| (connection.inode, connection.cookie))
        .collect();
    let mut tags = BTreeMap::new();
    if cookies.is_empty() {
        return Ok(tags);
    }
    let open = members.open_files()?;
    let pids: BTreeSet<u32> = workers.iter().map(|(pid, _)| *pid).collect();
    for pid in pids {
        // If a process has several workers, nothing tells to which of them a connection belongs.
        // The workers share the connections evenly.
        let mut shares = workers.iter().filter(|worker| worker.0 == pid).cycle();
        for cookie in open.sockets(pid).filter_map(|inode| cookies.get(&inode)) {
            if let Some((_, tag)) = shares.next() {
                tags.entry(*cookie).or_insert(*tag);
            }
        }
    }
    Ok(tags)
}
