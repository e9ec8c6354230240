//! The listeners of a port as the kernel has them: which group each is in, what is attached, and who
//! has them open.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::Context as _;
use aya::{Ebpf, programs::Iter};
use bytemuck::AnyBitPattern;
use steer_common::{event::Member, names};

use crate::{
    loading::{Constants, Kernel},
    procfd::OpenFiles,
    verifier,
};

/// Lists the listeners of one port by the kernel's `tcp` iterator, Linux 5.9, and who has its sockets open
/// by the `task_file` iterator, 5.8.
pub struct Members {
    ebpf: Ebpf,
}

impl Members {
    /// Loads the iterators for a port.
    pub fn load(kernel: &Kernel, host: &Path, port: u16) -> anyhow::Result<Self> {
        let constants = Constants {
            port: u32::from(port),
            ..Constants::default()
        };
        let types = kernel.types()?;
        let mut ebpf = kernel.load(constants, host, None)?;
        for (name, target) in [
            (names::PROGRAM_MEMBERS, names::ITERATOR),
            (names::PROGRAM_HOLDERS, names::ITERATOR_FILES),
        ] {
            let program = program(&mut ebpf, name)?;
            verifier::load(name, || program.load(target, &types))?;
        }
        Ok(Self { ebpf })
    }

    /// The listeners on the port, in the calling thread's network namespace.
    pub fn list(&mut self) -> anyhow::Result<Vec<Member>> {
        let file = self.begin(names::PROGRAM_MEMBERS)?;
        read_members(file).context("failed to list the listeners of the port")
    }

    /// Who has the port's sockets open, of all processes of the calling thread's pid namespace.
    pub fn open_files(&mut self) -> anyhow::Result<OpenFiles> {
        let file = self.begin(names::PROGRAM_HOLDERS)?;
        let records = records(file, |_| false).context("failed to list the open files")?;
        Ok(OpenFiles::new(&records))
    }

    /// Has the kernel begin a list anew.
    fn begin(&mut self, name: &str) -> anyhow::Result<File> {
        let program = program(&mut self.ebpf, name)?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file()?)
    }
}

/// Reads the records of `members`.
pub fn read_members(file: impl Read) -> io::Result<Vec<Member>> {
    // One without a socket: the listeners are over; what follows are the host's connections.
    records(file, |member: &Member| member.sock == 0)
}

/// Reads an iterator's records, in whatever pieces they come, until one is the end.
pub fn records<T: AnyBitPattern>(
    mut file: impl Read,
    is_end: impl Fn(&T) -> bool,
) -> io::Result<Vec<T>> {
    let size = size_of::<T>();
    let mut found = Vec::new();
    let mut records = vec![0; 256 * size];
    let mut filled = 0;
    loop {
        let read = match file.read(&mut records[filled..]) {
            Ok(0) => return Ok(found),
            Ok(read) => read,
            // The kernel pauses after a million objects without a record.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        filled += read;
        let whole = filled - filled % size;
        for record in records[..whole].chunks_exact(size) {
            let record: T = bytemuck::pod_read_unaligned(record);
            if is_end(&record) {
                return Ok(found);
            }
            found.push(record);
        }
        records.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Iter> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("the kernel object has no iterator {name}"))?
        .try_into()?)
}
