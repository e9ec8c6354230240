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

/// Room for connections that are made while the others are looked at.
const MORE: usize = 1024;

/// Looks for connections that were born before their worker's listener had a tag.
pub struct Earlier {
    ebpf: Ebpf,
    port: u16,
}

impl Earlier {
    /// Loads the iterator, with room for the connections that there are.
    ///
    /// Minimum kernel version: 5.9; before 5.15 one that is closed at the very moment may stay counted.
    pub fn load(kernel: &Kernel, host: &Path, port: u16) -> anyhow::Result<Self> {
        let room = sockdiag::connections(port)?.len() + MORE;
        let constants = Constants {
            port: u32::from(port),
            // Each by its address, and by its cookie.
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

    /// Counts what waits in the accept queues of listeners that have a tag by now. What is born on them
    /// from then on has one, too, so whatever else has none is accepted already.
    pub fn count_waiting(&mut self) -> anyhow::Result<()> {
        self.go_through()
    }

    /// Counts the connections that processes have open for their slots.
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
        // Addresses are used again.
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
        // Reading makes it run; what it lists is of no interest here.
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

/// The tag of each connection that one of the workers has open.
fn tags(
    connections: &[Connection],
    workers: &[(u32, Tag)],
    members: &mut Members,
) -> anyhow::Result<BTreeMap<u64, Tag>> {
    // One that waits to be accepted has no inode.
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
        // Which of a process's workers it was isn't told: they share.
        let mut shares = workers.iter().filter(|worker| worker.0 == pid).cycle();
        for cookie in open.sockets(pid).filter_map(|inode| cookies.get(&inode)) {
            if let Some((_, tag)) = shares.next() {
                tags.entry(*cookie).or_insert(*tag);
            }
        }
    }
    Ok(tags)
}
