//! The network namespace that steer works in: that of the calling thread, which may enter another
//! one first.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    output::exit::{Exit, Fail},
    sys::sockopt,
};

/// The directory in which `ip netns` keeps the namespaces that it names.
const NAMED: &str = "/run/netns";

/// A network namespace, in the form in which `--netns` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    shown: String,
    file: PathBuf,
}

impl FromStr for Netns {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected a path, a name that `ip netns` lists, or pid:N";
        let file = if let Some(pid) = text.strip_prefix("pid:") {
            let pid: u32 = pid
                .parse()
                .map_err(|_no_number: std::num::ParseIntError| FORM)?;
            PathBuf::from(format!("/proc/{pid}/ns/net"))
        } else if text.contains('/') {
            PathBuf::from(text)
        } else if text.is_empty() || text.starts_with('.') {
            return Err(FORM);
        } else {
            PathBuf::from(NAMED).join(text)
        };
        Ok(Self {
            shown: text.to_owned(),
            file,
        })
    }
}

impl Netns {
    /// The file by which steer enters it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Moves the calling thread into it, and with it every thread and process that the calling
    /// thread starts from then on. Needs CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<(), Fail> {
        let failed = |exit, why: &str| {
            let file = self.file.display();
            Fail::new(
                exit,
                format!("can't enter network namespace {}: {file} {why}", self.shown),
            )
        };
        let file = File::open(&self.file).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                failed(Exit::NothingThere, "doesn't exist")
            } else if error.kind() == io::ErrorKind::PermissionDenied {
                failed(
                    Exit::NotPermitted,
                    "can't be opened: the capability CAP_SYS_PTRACE is missing; run steer with sudo",
                )
            } else {
                failed(Exit::Failure, &format!("can't be opened: {error}"))
            }
        })?;
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), kind).map_err(|error| match error {
            Errno::PERM => failed(
                Exit::NotPermitted,
                "can't be entered: the capability CAP_SYS_ADMIN is missing; run steer with sudo",
            ),
            Errno::INVAL => failed(Exit::NothingThere, "is no network namespace"),
            _ => failed(Exit::Failure, &format!("can't be entered: {error}")),
        })
    }
}

/// The cookie of the calling thread's network namespace. No other namespace has it, or has had it
/// since boot.
///
/// Minimum kernel version: 5.14.
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel.
pub fn cookie() -> io::Result<u64> {
    // Only a socket tells the cookie.
    sockopt::netns_cookie(&probe()?)
}

/// A socket by which steer asks the kernel about the calling thread's network namespace. It is a
/// Unix socket, because that needs no network at all.
pub fn probe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        flags,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    #[test]
    fn a_namespace_has_three_kinds_of_name() {
        let file = |text: &str| text.parse::<Netns>().map(|netns| netns.file);
        assert_eq!(file("blue"), Ok("/run/netns/blue".into()));
        assert_eq!(file("pid:7"), Ok("/proc/7/ns/net".into()));
        assert_eq!(file("/var/run/x"), Ok("/var/run/x".into()));
        for wrong in ["", "pid:", "pid:x", "pid:-1", ".", ".."] {
            assert!(file(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_is_the_namespace_of_the_sockets_made_here() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        assert_eq!(
            cookie().expect("a cookie"),
            sockopt::netns_cookie(&listener).expect("a cookie")
        );
    }

    #[test]
    #[ignore = "privileged"]
    fn another_namespace_has_another_cookie() {
        let here = cookie().expect("a cookie");
        let there = thread::spawn(|| {
            // SAFETY: a new network namespace changes nothing that the other threads share with
            // this one: memory, descriptors and the view of the file system stay.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace");
            cookie().expect("a cookie")
        });
        assert_ne!(here, there.join().expect("the thread"));
    }
}
