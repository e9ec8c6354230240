//! The locks of steers up to layout 3: files in /run/steer, each with the pid of its holder.
//!
//! Such a lock is on an open file description (`F_OFD_SETLK`): it dies with its holder, however that ends.
//! Nothing of this version's own goes by it: whoever deletes the file has taken it from its holder.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::procfd;

const DIRECTORY: &str = "/run/steer";

/// A new holder writes its pid right after it has the lock; who looks between the two looks again.
const PID_LOOKS: u32 = 20;
const PID_WAIT: Duration = Duration::from_millis(2);

/// Why a lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FileLockError {
    /// Another process has it.
    #[error("lock {}: it is held by {}", path.display(), described(*pid))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The holder, where it has told.
        pid: Option<u32>,
    },
    /// The name can't be a file's name.
    #[error("lock {0:?}: the name is not usable")]
    Name(String),
    /// The directory of locks isn't this user's.
    #[error(
        "lock {}: the directory must be this user's, or CAP_DAC_OVERRIDE is missing \
         (docs/operations.md)",
        path.display()
    )]
    Denied {
        /// The lock's file.
        path: PathBuf,
    },
    /// The file system didn't allow it.
    #[error("lock {}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// A lock that this process holds until it is dropped or the process ends, however it ends. A file
/// that a killed process leaves behind is no obstacle.
#[derive(Debug)]
pub struct FileLock {
    /// Open for as long as the lock is held.
    file: Option<File>,
    path: PathBuf,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Whoever drops it fails for another reason already.
        drop(self.remove());
    }
}

impl FileLock {
    /// Takes the lock `name` without waiting.
    ///
    /// # Errors
    /// [`FileLockError::Held`] names the process that has it.
    pub fn acquire(name: &str) -> Result<Self, FileLockError> {
        Self::acquire_in(Path::new(DIRECTORY), name)
    }

    /// Gives the lock back and removes its file, and the directory with the last one.
    pub fn release(mut self) -> Result<(), FileLockError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), FileLockError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        // Removed while it is still held: whoever opened it before finds it unlinked and starts
        // over.
        fs::remove_file(&self.path).map_err(at(&self.path))?;
        drop(file);
        if let Some(directory) = self.path.parent()
            && let Err(error) = fs::remove_dir(directory)
            && !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::ResourceBusy
                    // Made by an administrator, or systemd, for a steer that isn't root's.
                    | io::ErrorKind::PermissionDenied
            )
        {
            return Err(at(directory)(error));
        }
        Ok(())
    }

    fn acquire_in(directory: &Path, name: &str) -> Result<Self, FileLockError> {
        let path = path_in(directory, name)?;
        loop {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory);
            match made {
                // Another lock's release removed it right after it was found to be there.
                Err(error) if is_removed(&error, directory) => continue,
                made => made.map_err(at(&path))?,
            }
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            let mut file = match open(&mut options, &path) {
                Ok(file) => file,
                // Another lock's release removed the directory in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&path)(error)),
            };
            if !try_lock(&file).map_err(at(&path))? {
                // Gone again where the holder released it meanwhile.
                if is_at(&file, &path).map_err(at(&path))? {
                    let pid = read_pid(&path).map_err(at(&path))?;
                    return Err(FileLockError::Held { path, pid });
                }
                continue;
            }
            // Between open and lock the last holder may have removed the file: then this lock is on
            // a file that nobody else will ever open.
            if is_at(&file, &path).map_err(at(&path))? {
                write_pid(&mut file).map_err(at(&path))?;
                let file = Some(file);
                return Ok(Self { file, path });
            }
        }
    }
}

/// The live holder of the lock `name`: None where nobody holds it, or its pid can't be read.
pub fn holder(name: &str) -> Option<u32> {
    holder_in(Path::new(DIRECTORY), name)
}

/// Whether process `pid`, as this process's /proc numbers it, has the lock's file open. A holder in
/// another pid namespace has told a number that is somebody else's here.
pub fn is_open_in(name: &str, pid: u32) -> bool {
    let file = path_in(Path::new(DIRECTORY), name).ok();
    let Some(file) = file.and_then(|path| fs::metadata(path).ok()) else {
        return false;
    };
    let same = |found: fs::Metadata| found.ino() == file.ino() && found.dev() == file.dev();
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|descriptors| {
        descriptors
            .flatten()
            .any(|descriptor| fs::metadata(descriptor.path()).is_ok_and(same))
    })
}

fn holder_in(directory: &Path, name: &str) -> Option<u32> {
    let path = path_in(directory, name).ok()?;
    let file = open(&mut OpenOptions::new(), &path).ok()?;
    if !is_locked(&file).ok()? {
        return None;
    }
    read_pid(&path).ok()?
}

fn path_in(directory: &Path, name: &str) -> Result<PathBuf, FileLockError> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(usable) {
        return Err(FileLockError::Name(name.to_owned()));
    }
    Ok(directory.join(format!("{name}.lock")))
}

/// Opens a lock's file to read it, and for what `options` say besides. Never waits, as a FIFO in its place
/// would have one do, and follows no link.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no regular file: remove it"))
    }
}

/// Whether making a directory failed because it was there, and it isn't any more, or is again.
fn is_removed(error: &io::Error, directory: &Path) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
        && fs::symlink_metadata(directory).map_or_else(
            |error| error.kind() == io::ErrorKind::NotFound,
            |found| found.is_dir(),
        )
}

/// Whether `file` is still what `path` names.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == opened.ino() && named.dev() == opened.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The pid in the file at `path`, whose lock is held.
fn read_pid(path: &Path) -> io::Result<Option<u32>> {
    for _ in 0..PID_LOOKS {
        let mut text = String::new();
        match open(&mut OpenOptions::new(), path) {
            Ok(file) => file.take(64).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(pid) = pid_in(&text) {
            return Ok(Some(pid));
        }
        thread::sleep(PID_WAIT);
    }
    Ok(None)
}

/// The pid in a lock's file. Without its line end it may still be growing.
pub fn pid_in(text: &str) -> Option<u32> {
    procfd::number(text.strip_suffix('\n')?.as_bytes())
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// False where another open file has the lock.
fn try_lock(file: &File) -> io::Result<bool> {
    let lock = whole_file(libc::F_WRLCK);
    // SAFETY: the descriptor is open for the call, and the kernel only reads `lock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: the descriptor is open for the call, and `lock`, which the kernel reads and writes,
    // outlives it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn described(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileLockError {
    let path = path.to_owned();
    |source| {
        if source.kind() == io::ErrorKind::PermissionDenied {
            FileLockError::Denied { path }
        } else {
            FileLockError::Io { path, source }
        }
    }
}

#[cfg(test)]
mod tests;
