//! Where an attachment's state is pinned.
//!
//! ```text
//! <bpffs root>/v<layout>/
//!     host/                        the tracker and the maps that all attachments share
//!     net-<cookie>/tcp-<port>/     one port; its lock is the port's lock
//!         edit/                    nothing; its lock is the lock for changes
//!         group-<id>/              one group's program and maps
//! ```
//!
//! These directories are made and removed under the host's lock, which is the lock of the root.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use steer_common::names::LAYOUT;

use crate::{survey::port::Port, sys::procfs};

/// The prefix of the directories in which trackers are made.
const UNFINISHED_HOST: &str = "unfinished-host-";

/// The directories under one bpffs root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    layout: PathBuf,
}

impl Pins {
    /// The pins below a root that [`crate::state::bpffs`] has found.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            layout: root.join(format!("v{LAYOUT}")),
        }
    }

    /// The directory that holds the pins of all layouts. Its lock is the host's lock.
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

    /// The directory whose lock is the lock for changes of an attachment's tables.
    pub fn edit(&self, port: Port) -> PathBuf {
        self.attachment(port).join("edit")
    }

    /// Makes the directories of an attachment if they don't exist.
    pub fn make_attachment(&self, port: Port) -> io::Result<()> {
        make_dir(&self.edit(port))
    }

    /// Makes a directory in which the tracker and the shared maps are made. It is renamed to
    /// [`Self::host`] when everything is in it.
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

    /// The directories of [`Self::make_unfinished_host`] that weren't renamed (yet).
    pub fn unfinished_hosts(&self) -> io::Result<Vec<PathBuf>> {
        let found = numbered(&self.layout, UNFINISHED_HOST)?;
        Ok(found.into_iter().map(|(_, dir)| dir).collect())
    }

    /// The directory of one group of an attachment.
    pub fn group(&self, port: Port, group: u32) -> PathBuf {
        self.attachment(port).join(format!("group-{group}"))
    }

    /// The name that a group's directory has before it gets its number, and again while it is
    /// removed.
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

    /// The pins of steers with other layouts of the maps that have this port, with the layouts'
    /// numbers.
    pub fn other_layouts(&self, port: Port) -> io::Result<Vec<(u64, Self)>> {
        let mut others = self.layouts()?;
        others.retain(|(_, pins)| pins.attachment(port).is_dir());
        Ok(others)
    }

    /// Every port that a steer with another layout of the maps has, with that layout's number.
    pub fn of_other_layouts(&self) -> io::Result<Vec<(u64, Port)>> {
        let mut found = Vec::new();
        for (layout, pins) in self.layouts()? {
            found.extend(pins.attachments()?.into_iter().map(|port| (layout, port)));
        }
        Ok(found)
    }

    /// The pins of all steers with other layouts of the maps, with the layouts' numbers.
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

    /// Removes a group's directory. The directory loses its name first, so that nobody takes a
    /// half-removed directory for a group.
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
        // The last port of a network namespace takes the namespace's directory with it.
        remove_empty(dir.parent().unwrap_or(&dir))
    }

    /// Removes the half-made and half-removed groups of a steer that was killed.
    pub fn remove_unfinished(&self, port: Port) -> io::Result<()> {
        for (_, dir) in numbered(&self.attachment(port), "unfinished-")? {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    /// Removes the directory of this layout if nothing is pinned in it any more.
    pub fn remove_layout_if_empty(&self) -> io::Result<()> {
        remove_empty(&self.layout)
    }
}

/// Makes a directory that only its owner can enter, with its parents.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes a directory and what is in it. A directory that doesn't exist is no error.
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

/// The subdirectories named `<prefix><number>`. If `dir` doesn't exist, there are none.
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

/// The number in a name like `<prefix><number>`. steer makes no name with a sign or leading
/// zeros: the number in such a name would stand for another directory.
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
