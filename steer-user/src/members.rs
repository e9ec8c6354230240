//! The listeners of a port as the kernel has them: which group each is in, and what is attached.

use std::{
    io::{self, Read},
    path::Path,
};

use anyhow::Context as _;
use aya::{Ebpf, programs::Iter};
use steer_common::{event::Member, names};

use crate::{
    loading::{Constants, Kernel},
    verifier,
};

/// Lists the listeners of one port, by the kernel's `tcp` iterator. Linux 5.9.
pub struct Members {
    ebpf: Ebpf,
}

impl Members {
    /// Loads the iterator for a port.
    pub fn load(kernel: &Kernel, host: &Path, port: u16) -> anyhow::Result<Self> {
        let constants = Constants {
            port: u32::from(port),
            ..Constants::default()
        };
        let mut ebpf = kernel.load(constants, host, None)?;
        let program = program(&mut ebpf)?;
        verifier::load(names::PROGRAM_MEMBERS, || {
            program.load(names::ITERATOR, &kernel.btf)
        })?;
        Ok(Self { ebpf })
    }

    /// The listeners on the port, in the calling thread's network namespace.
    pub fn list(&mut self) -> anyhow::Result<Vec<Member>> {
        let program = program(&mut self.ebpf)?;
        let link = program.attach()?;
        let file = program.take_link(link)?.into_file()?;
        read_members(file).context("failed to list the listeners of the port")
    }
}

/// Reads the iterator's records, in whatever pieces they come.
pub fn read_members(mut file: impl Read) -> io::Result<Vec<Member>> {
    const SIZE: usize = size_of::<Member>();
    let mut members = Vec::new();
    let mut records = vec![0; 64 * SIZE];
    let mut filled = 0;
    loop {
        let read = file.read(&mut records[filled..])?;
        if read == 0 {
            return Ok(members);
        }
        filled += read;
        let whole = filled - filled % SIZE;
        for record in records[..whole].chunks_exact(SIZE) {
            let member: Member = bytemuck::pod_read_unaligned(record);
            if member.sock == 0 {
                // The listeners are over; what follows are the host's connections.
                return Ok(members);
            }
            members.push(member);
        }
        records.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

fn program(ebpf: &mut Ebpf) -> anyhow::Result<&mut Iter> {
    Ok(ebpf
        .program_mut(names::PROGRAM_MEMBERS)
        .context("the kernel object has no iterator over listeners")?
        .try_into()?)
}
