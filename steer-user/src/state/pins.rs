//! Where an attachment's state is pinned.
//!
//! ```text
//! <bpffs root>/v<layout>/host/                           the tracker and the maps that all share
//! <bpffs root>/v<layout>/net-<cookie>/tcp-<port>/              one port: locked by the steer that follows it
//! <bpffs root>/v<layout>/net-<cookie>/tcp-<port>/edit/         locked by whoever changes the port's tables
//! <bpffs root>/v<layout>/net-<cookie>/tcp-<port>/group-<id>/   one group's program and maps
//! ```
//!
//! The directories are made and removed under the host's lock, which is that of the root.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use steer_common::names::LAYOUT;

use crate::{survey::port::Port, sys::procfs};

/// What the names of the directories begin with in which a tracker is made.
const UNFINISHED_HOST: &str = "unfinished-host-";

/// The directories under one bpffs root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    layout: PathBuf,
}

impl Pins {
    /// The pins below a root of [`crate::state::bpffs`].
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            layout: root.join(format!("v{LAYOUT}")),
        }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the tracker and the maps that all attachments share.
    pub fn host(&self) -> PathBuf {
        self.layout.join("host")
    }

    /// The directory of an attachment.
    pub fn attachment(&self, port: Port) -> PathBuf {
        self.layout
            .join(format!("net-{}", port.netns_cookie))
            .join(format!("tcp-{}", port.port))
    }

    /// The directory that is locked by whoever changes the tables of an attachment.
    pub fn edit(&self, port: Port) -> PathBuf {
        self.attachment(port).join("edit")
    }

    /// Makes the directories of an attachment, where they aren't there.
    pub fn make_attachment(&self, port: Port) -> io::Result<()> {
        make_dir(&self.edit(port))
    }

    /// Makes a directory in which the tracker and the maps that all share are made before they get their place.
    pub fn make_unfinished_host(&self) -> io::Result<PathBuf> {
        make_dir(&self.layout)?;
        let mut number = 0;
        loop {
            let dir = self.layout.join(format!("{UNFINISHED_HOST}{number}"));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                made => return made.map(|()| dir),
            }
        }
    }

    /// The directories that [`Self::make_unfinished_host`] made.
    pub fn unfinished_hosts(&self) -> io::Result<Vec<PathBuf>> {
        let found = numbered(&self.layout, UNFINISHED_HOST)?;
        Ok(found.into_iter().map(|(_, dir)| dir).collect())
    }

    /// The directory of one group of an attachment.
    pub fn group(&self, port: Port, group: u32) -> PathBuf {
        self.attachment(port).join(format!("group-{group}"))
    }

    /// Where a group's directory is made before it gets its number, or is when it has lost it.
    pub fn unfinished_group(&self, port: Port, group: u32) -> PathBuf {
        self.attachment(port).join(format!("unfinished-{group}"))
    }

    /// Every attachment that has a directory, sorted.
    pub fn attachments(&self) -> io::Result<Vec<Port>> {
        let mut ports = Vec::new();
        for (netns_cookie, dir) in numbered(&self.layout, "net-")? {
            for (port, _) in numbered(&dir, "tcp-")? {
                if let Ok(port) = u16::try_from(port) {
                    ports.push(Port { netns_cookie, port });
                }
            }
        }
        ports.sort_unstable();
        Ok(ports)
    }

    /// The pins of steers whose maps have other layouts and that have the port, with these layouts' numbers.
    pub fn other_layouts(&self, port: Port) -> io::Result<Vec<(u64, Self)>> {
        let mut others = self.layouts()?;
        others.retain(|(_, pins)| pins.attachment(port).is_dir());
        Ok(others)
    }

    /// Every port that a steer has whose maps have another layout, with that layout's number.
    pub fn of_other_layouts(&self) -> io::Result<Vec<(u64, Port)>> {
        let mut found = Vec::new();
        for (layout, pins) in self.layouts()? {
            found.extend(pins.attachments()?.into_iter().map(|port| (layout, port)));
        }
        Ok(found)
    }

    /// The pins of steers whose maps have other layouts, with these layouts' numbers.
    fn layouts(&self) -> io::Result<Vec<(u64, Self)>> {
        let others = numbered(&self.root, "v")?.into_iter();
        let others = others.filter(|(layout, _)| *layout != u64::from(LAYOUT));
        let pins = |(layout, dir)| {
            let root = self.root.clone();
            (layout, Self { root, layout: dir })
        };
        Ok(others.map(pins).collect())
    }

    /// The groups of an attachment that have pins, sorted.
    pub fn groups(&self, port: Port) -> io::Result<Vec<u32>> {
        let mut groups: Vec<u32> = numbered(&self.attachment(port), "group-")?
            .into_iter()
            .filter_map(|(group, _)| group.try_into().ok())
            .collect();
        groups.sort_unstable();
        Ok(groups)
    }

    /// Removes a group's directory. One that is half removed is never taken for a group.
    pub fn remove_group(&self, port: Port, group: u32) -> io::Result<()> {
        let dir = self.unfinished_group(port, group);
        remove_tree(&dir)?;
        fs::rename(self.group(port, group), &dir)?;
        remove_tree(&dir)
    }

    /// Removes an attachment's directory with all its groups, finished or not.
    pub fn remove_attachment(&self, port: Port) -> io::Result<()> {
        self.remove_unfinished(port)?;
        for group in self.groups(port)? {
            self.remove_group(port, group)?;
        }
        let dir = self.attachment(port);
        remove_tree(&dir)?;
        // The namespace's directory goes with its last port.
        remove_empty(dir.parent().unwrap_or(&dir))
    }

    /// Removes what a steer left that was killed while it made a group or removed it.
    pub fn remove_unfinished(&self, port: Port) -> io::Result<()> {
        for (_, dir) in numbered(&self.attachment(port), "unfinished-")? {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    /// Removes the directories that nothing is pinned in any more.
    pub fn remove_layout_if_empty(&self) -> io::Result<()> {
        remove_empty(&self.layout)
    }
}

/// Makes a directory that only its owner can enter, with its parents.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes a directory and what is in it; one that isn't there is fine.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn remove_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// The subdirectories named `<prefix><number>`; none where the directory isn't there.
fn numbered(dir: &Path, prefix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(number) = number_in(entry.file_name().as_bytes(), prefix) {
            found.push((number, entry.path()));
        }
    }
    Ok(found)
}

/// The number in a name like `<prefix><number>`. A name with a sign or leading zeros is none of steer's:
/// it would stand for another directory.
pub fn number_in(name: &[u8], prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix.as_bytes())?;
    let number: u64 = procfs::number(digits)?;
    (number.to_string().as_bytes() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::number_in;

    #[test]
    fn a_number_has_one_name() {
        assert_eq!(number_in(b"tcp-3000", "tcp-"), Some(3000));
        assert_eq!(number_in(b"tcp-0", "tcp-"), Some(0));
        for other in [
            "tcp-+3000",
            "tcp-03000",
            "tcp-00",
            "tcp-",
            "tcp--1",
            "net-3000",
        ] {
            assert_eq!(number_in(other.as_bytes(), "tcp-"), None, "{other}");
        }
    }
}
