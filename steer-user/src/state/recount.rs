//! The open connections of the workers, as the kernel lists them, rather than as they were
//! counted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
};

use anyhow::Context as _;
use steer_common::{names, slot::Tag};

use crate::state::pins::Pins;

/// How many connections each worker has open.
#[derive(Debug, Default)]
pub struct Recount(BTreeMap<(u32, u32, u32), u64>);

impl Recount {
    /// Lists the connections in the calling thread's network namespace. The iterator also counts
    /// those connections that aren't counted yet.
    pub fn take(pins: &Pins) -> anyhow::Result<Self> {
        let path = pins.host().join(names::PROGRAM_RECOUNT);
        File::open(&path)
            .and_then(Self::read)
            .with_context(|| format!("failed to list the open connections by {}", path.display()))
    }

    /// Reads the iterator's records, in pieces of any size.
    pub fn read(mut file: impl Read) -> io::Result<Self> {
        const SIZE: usize = size_of::<Tag>();
        let mut open = BTreeMap::new();
        let mut records = vec![0; 1024 * SIZE];
        let mut filled = 0;
        loop {
            let read = file.read(&mut records[filled..])?;
            if read == 0 {
                return Ok(Self(open));
            }
            filled += read;
            let whole = filled - filled % SIZE;
            for record in records[..whole].chunks_exact(SIZE) {
                let tag: Tag = bytemuck::pod_read_unaligned(record);
                *open
                    .entry((tag.group, tag.slot, tag.generation))
                    .or_insert(0) += 1;
            }
            records.copy_within(whole..filled, 0);
            filled -= whole;
        }
    }

    /// How many connections of one worker are open. The generation tells the worker from the
    /// slot's former workers.
    pub fn open(&self, group: u32, slot: u32, generation: u32) -> u64 {
        let key = (group, slot, generation);
        self.0.get(&key).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives seven bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(7);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn records_in_pieces_are_counted_by_worker() {
        let tag = |slot, generation| Tag {
            attachment: 1,
            group: 2,
            slot,
            generation,
            stage: Tag::BORN,
        };
        let records = [tag(3, 4), tag(3, 5), tag(3, 4), tag(0, 4)];
        let counted = Recount::read(Slow(bytemuck::bytes_of(&records))).expect("a slice");
        assert_eq!(counted.open(2, 3, 4), 2);
        assert_eq!(counted.open(2, 3, 5), 1);
        assert_eq!(counted.open(2, 0, 4), 1);
        assert_eq!(counted.open(1, 0, 4), 0);
    }
}
