//! What `/proc` tells of processes, and how it names them.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat, readlinkat},
    io::Errno,
};

/// All processes of the pid namespace that `/proc` shows.
pub fn pids() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(number::<u32>(entry?.file_name().as_encoded_bytes()));
    }
    Ok(pids)
}

/// The directory of process `pid` in `/proc`. It never becomes the directory of another process.
pub(crate) fn process(pid: u32) -> Result<OwnedFd, Errno> {
    directory(CWD, &format!("/proc/{pid}"), OFlags::PATH)
}

/// A directory, by its path from the directory `above`.
pub(crate) fn directory(
    above: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(above, path, flags, Mode::empty())
}

/// The contents of a file in the directory `process`.
pub(crate) fn contents(process: BorrowedFd<'_>, path: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(process, path, flags, Mode::empty())?);
    let mut contents = Vec::new();
    file.read_to_end(&mut contents)?;
    Ok(contents)
}

/// When process `pid` started, in clock ticks since boot.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let process = process(pid).ok()?;
    let stat = contents(process.as_fd(), "stat").ok()?;
    start_time(&String::from_utf8_lossy(&stat))
}

/// The start time in a line of `/proc/PID/stat`. The second field of the line, the name, may hold
/// any characters.
pub fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The name that some runtimes give to a process's first thread: Node does from 24 on.
const MAIN_THREAD: &str = "MainThread";

/// The name of a process: that of its first thread. If that name says nothing of the program, the
/// name of the program's file.
pub(crate) fn name(process: BorrowedFd<'_>) -> Result<String, Errno> {
    let comm = contents(process, "comm")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let comm = comm_in(&comm);
    if comm != MAIN_THREAD {
        return Ok(comm);
    }
    let file = readlinkat(process, "exe", Vec::new()).ok();
    let name = file.and_then(|file| file_name(file.as_bytes()));
    Ok(name.unwrap_or(comm))
}

/// The last part of a program's path. If the program's file was deleted, the kernel says so
/// behind the path.
fn file_name(path: &[u8]) -> Option<String> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// The name in the contents of `/proc/PID/comm`.
pub fn comm_in(contents: &[u8]) -> String {
    let comm = contents.strip_suffix(b"\n").unwrap_or(contents);
    String::from_utf8_lossy(comm).into_owned()
}

/// A decimal number, in the form in which `/proc` names processes and descriptors.
pub fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    // The standard library would take a sign, too.
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// The inode in a link like `socket:[4711]`.
pub fn socket_inode(link: &[u8]) -> Option<u64> {
    number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio, id};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_does_not_hide_the_start_time() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("7 (a"), None);
        assert!(started(id()).is_some());
    }

    #[test]
    fn links_are_read_as_the_kernel_writes_them() {
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        for other in [
            &b"socket:[]"[..],
            b"socket:[-1]",
            b"pipe:[4711]",
            b"/socket:[1]",
            b"socket:[1",
        ] {
            assert_eq!(socket_inode(other), None);
        }
    }

    proptest! {
        #[test]
        fn no_link_panics(link in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _inode = socket_inode(&link);
        }

        #[test]
        fn no_stat_panics(text in "\\PC*") {
            let _start = start_time(&text);
        }
    }

    #[test]
    fn a_process_whose_thread_has_no_name_of_its_own_is_named_by_its_file() {
        let named = |name: &str| {
            let script = format!("printf {name} > /proc/$$/comm; echo; read end");
            let mut child = Command::new("sh")
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("a shell");
            let mut output = child.stdout.take().expect("its output");
            let mut line = [0];
            output.read_exact(&mut line).expect("a line");
            let seen = name_of(child.id());
            let file = fs::read_link(format!("/proc/{}/exe", child.id())).expect("its file");
            drop(child.stdin.take());
            child.wait().expect("its end");
            (
                seen,
                file.file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            )
        };
        let (seen, file) = named("MainThread");
        assert_eq!(Some(seen), file);
        assert_eq!(named("worker-7").0, "worker-7");
    }

    fn name_of(pid: u32) -> String {
        name(process(pid).expect("the process").as_fd()).expect("its name")
    }

    #[test]
    fn a_deleted_programs_name_is_what_it_was() {
        assert_eq!(
            file_name(b"/usr/bin/node (deleted)").as_deref(),
            Some("node")
        );
        assert_eq!(file_name(b"node").as_deref(), Some("node"));
        assert_eq!(file_name(b"/"), None);
    }
}
