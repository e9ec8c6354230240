//! The listeners of a port as the kernel has them: which group each is in, what is attached to
//! the group, and who has the port's sockets open.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::Iter,
};
use bytemuck::{AnyBitPattern, Zeroable as _};
use steer_common::{
    event::{Listing, Member},
    names,
};

use crate::{
    kernel::{
        loading::{Constants, Kernel},
        verifier,
    },
    survey::proc::holders::OpenFiles,
};

/// Lists the listeners of one port by the kernel's `tcp` iterator (Linux 5.9), and who has the
/// port's sockets open by the `task_file` iterator (Linux 5.8).
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

    /// The listeners on the port, in the calling thread's network namespace. These are the
    /// listeners with these cookies, as far as they still exist, and maybe some that appeared
    /// since.
    pub fn list(&mut self, cookies: &BTreeSet<u64>) -> anyhow::Result<Vec<Member>> {
        if cookies.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.read(u32::try_from(cookies.len())?)?;
        let listed: BTreeSet<u64> = found.iter().map(|member| member.cookie).collect();
        if cookies.is_subset(&listed) {
            return Ok(found);
        }
        // The list ended early because a new listener took the place of one that may be further
        // on. So this lists all.
        self.read(0)
    }

    /// Lists as many listeners as are wanted, if there are as many. 0 lists all.
    fn read(&mut self, wanted: u32) -> anyhow::Result<Vec<Member>> {
        let begun = Listing {
            wanted,
            ..Listing::zeroed()
        };
        self.listing()?.set(0, begun, 0)?;
        let file = self.begin(names::PROGRAM_MEMBERS)?;
        let listing = self.listing()?;
        let last = || -> io::Result<Option<Member>> {
            let Listing { found, last, .. } = listing.get(&0, 0).map_err(io::Error::other)?;
            Ok((wanted != 0 && found == wanted).then_some(last))
        };
        let mut found = read_members(UntilEnd {
            file,
            is_over: || Ok(last()?.is_some()),
        })
        .context("failed to list the listeners of the port")?;
        found.extend(last()?);
        Ok(found)
    }

    fn listing(&mut self) -> anyhow::Result<Array<&mut MapData, Listing>> {
        let map = self
            .ebpf
            .map_mut(names::MAP_LISTING)
            .context("the kernel object has no map of how far a list goes")?;
        Ok(Array::try_from(map)?)
    }

    /// Who has the port's sockets open, among all processes of the calling thread's pid
    /// namespace.
    pub fn open_files(&mut self) -> anyhow::Result<OpenFiles> {
        let file = self.begin(names::PROGRAM_HOLDERS)?;
        let records = records(file, |_| false).context("failed to list the open files")?;
        Ok(OpenFiles::new(&records))
    }

    /// Makes the kernel begin a list anew.
    fn begin(&mut self, name: &str) -> anyhow::Result<File> {
        let program = program(&mut self.ebpf, name)?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file()?)
    }
}

/// Reads a file until `is_over` says so. If it read on, the kernel would begin again with its
/// last object.
struct UntilEnd<F, O> {
    file: F,
    is_over: O,
}

impl<F: Read, O: Fn() -> io::Result<bool>> Read for UntilEnd<F, O> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.is_over)()? {
            return Ok(0);
        }
        self.file.read(buffer)
    }
}

/// Reads the records of the iterator `members`.
pub fn read_members(file: impl Read) -> io::Result<Vec<Member>> {
    // A record without a socket says that all listeners are listed. What follows are the host's
    // connections.
    records(file, |member: &Member| member.sock == 0)
}

/// Reads an iterator's records, in pieces of any size, up to the first that `is_end`.
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
            // The kernel pauses after a million objects without a record. It also does if the
            // program ends the list before the first record.
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What the kernel answers if the list ends before the first record. It would answer that
    /// again and again.
    struct Ends<'a>(&'a Cell<u32>);

    impl Read for Ends<'_> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.set(self.0.get() + 1);
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    #[test]
    fn an_end_before_the_first_record_is_read_once() -> io::Result<()> {
        let reads = Cell::new(0);
        let file = UntilEnd {
            file: Ends(&reads),
            is_over: || Ok(reads.get() == 1),
        };
        assert_eq!(read_members(file)?, []);
        assert_eq!(reads.get(), 1);
        Ok(())
    }
}
