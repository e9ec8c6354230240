//! Writes the archive that a kernel unpacks into its initial file system.

use std::{
    fs::{self, DirEntry, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cpio::newc::{self, Builder, ModeFileType};

/// A cpio archive that is being written.
pub(super) struct Archive {
    writer: BufWriter<File>,
    file: PathBuf,
    inodes: u32,
}

impl Archive {
    pub(super) fn new(file: &Path) -> Result<Self> {
        Self::of(
            OpenOptions::new().write(true).create(true).truncate(true),
            file,
        )
    }

    pub(super) fn after(file: &Path) -> Result<Self> {
        Self::of(OpenOptions::new().append(true), file)
    }

    fn of(options: &OpenOptions, file: &Path) -> Result<Self> {
        let writer = options
            .open(file)
            .with_context(|| format!("failed to write {}", file.display()))?;
        Ok(Self {
            writer: BufWriter::new(writer),
            file: file.to_owned(),
            inodes: 0,
        })
    }

    fn entry(&mut self, entry: Builder, bytes: &[u8]) -> Result<()> {
        self.inodes += 1;
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB")?;
        let mut writer = entry.ino(self.inodes).write(&mut self.writer, size);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    pub(super) fn directory(&mut self, name: &str) -> Result<()> {
        let entry = Builder::new(name).nlink(2).mode(0o755);
        self.entry(entry.set_mode_file_type(ModeFileType::Directory), &[])
    }

    pub(super) fn console(&mut self) -> Result<()> {
        let entry = Builder::new("dev/console").mode(0o600);
        let entry = entry.rdev_major(5).rdev_minor(1);
        self.entry(entry.set_mode_file_type(ModeFileType::Char), &[])
    }

    pub(super) fn program(&mut self, name: &str, file: &Path) -> Result<()> {
        self.file(name, file, 0o755)
    }

    /// Writes all that is below a directory, as it is there except for owners and times.
    pub(super) fn tree(&mut self, root: &Path) -> Result<()> {
        self.below(root, root)
    }

    fn below(&mut self, root: &Path, directory: &Path) -> Result<()> {
        let read = || format!("failed to read {}", directory.display());
        let mut entries = fs::read_dir(directory)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .with_context(read)?;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = path.strip_prefix(root)?.to_string_lossy();
            let kind = entry.file_type().with_context(read)?;
            if kind.is_dir() {
                self.directory(&name)?;
                self.below(root, &path)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).with_context(read)?;
                self.link(&name, &target)?;
            } else if kind.is_file() {
                let mode = entry.metadata().with_context(read)?.permissions().mode();
                self.file(&name, &path, mode & 0o7777)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, name: &str, target: &Path) -> Result<()> {
        let entry = Builder::new(name).mode(0o777);
        let entry = entry.set_mode_file_type(ModeFileType::Symlink);
        self.entry(entry, target.as_os_str().as_bytes())
    }

    fn file(&mut self, name: &str, file: &Path, mode: u32) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        let entry = Builder::new(name).mode(mode);
        self.entry(entry.set_mode_file_type(ModeFileType::Regular), &bytes)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        newc::trailer(&mut self.writer)?;
        self.writer
            .flush()
            .with_context(|| format!("failed to write {}", self.file.display()))
    }
}
