//! Whether this kernel soundly moves waiting connections away from a listener that closes.
//!
//! From Linux 5.14 on, the kernel can ask a program where such connections go. But a kernel
//! without the fix of CVE-2026-46015 doesn't wake the worker that gets them. That worker finds
//! them only when something else wakes it. Distributions bring fixes to old versions, so only a
//! trial tells.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::event::{Timespec, epoll};

use crate::{
    kernel::bpf_sys,
    sys::listening::{ListenOptions, listen},
    sys::sockopt,
};

/// r0 = 1; exit: SK_PASS without a selection. So the kernel chooses among the other listeners.
const INSTRUCTIONS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// How long the trial waits for a wakeup. A wakeup takes microseconds.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long the trial waits for its own connection over loopback, which is there before connect()
/// returns.
const SHORT: Duration = Duration::from_millis(5);

/// What a trial found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The waiting connection moved, and its new worker was woken.
    Sound,
    /// The waiting connection moved, and nobody was woken: CVE-2026-46015.
    NotWoken,
    /// The waiting connection was lost, as it is without migration.
    Lost,
}

impl Trial {
    /// What the outcome means, in the words of messages.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Sound => "migrates waiting connections and wakes the worker that gets them",
            Self::NotWoken => {
                "this kernel migrates waiting connections without waking the workers that get them \
                 (CVE-2026-46015), so steer leaves migration off"
            }
            Self::Lost => "this kernel doesn't migrate waiting connections",
        }
    }
}

/// Why a trial has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The trial couldn't make two listeners and a connection on 127.0.0.1.
    #[error("try migration on 127.0.0.1: {step}")]
    Socket {
        /// What failed.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel doesn't load a program that migrates: it has none, or a capability is missing.
    #[error("load a program that migrates")]
    Load(#[source] io::Error),
}

/// Tries migration on two listeners of its own, on a free port of 127.0.0.1. On a sound kernel
/// this takes a millisecond. Minimum kernel version: Linux 5.14. Needs CAP_BPF.
pub fn trial() -> Result<Trial, TrialError> {
    let failed = |step| move |source| TrialError::Socket { step, source };
    let program = bpf_sys::load_migrating(&INSTRUCTIONS).map_err(TrialError::Load)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let first = listen(&ListenOptions::new(any)).map_err(failed("listen"))?;
    let address = first.local_addr().map_err(failed("listen"))?;
    let second = listen(&ListenOptions::new(address)).map_err(failed("listen again"))?;
    sockopt::attach_program(&first, &program).map_err(failed("attach a program"))?;
    let client = TcpStream::connect(address).map_err(failed("connect"))?;

    // The program selects nothing, so the hash has chosen a listener. That listener is closed.
    let both = [watch(&first), watch(&second)];
    let [first_has_it, second_has_it] = both.map(|one| one.and_then(|one| woken(&one, SHORT)));
    let (closing, other) = match (first_has_it, second_has_it) {
        (Ok(true), Ok(false)) => (first, second),
        (Ok(false), Ok(true)) => (second, first),
        (Err(error), _) | (_, Err(error)) => return Err(failed("poll")(error)),
        (Ok(_), Ok(_)) => return Err(failed("connect")(io::ErrorKind::TimedOut.into())),
    };
    let loop_of_other = watch(&other).map_err(failed("poll"))?;
    drop(closing);
    let woken = woken(&loop_of_other, PATIENCE).map_err(failed("poll"))?;
    other.set_nonblocking(true).map_err(failed("accept"))?;
    let trial = match (other.accept(), woken) {
        (Ok(_), true) => Trial::Sound,
        (Ok(_), false) => Trial::NotWoken,
        (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => Trial::Lost,
        (Err(error), _) => return Err(failed("accept")(error)),
    };
    drop(client);
    Ok(trial)
}

/// An epoll instance that watches a listener.
fn watch(listener: &TcpListener) -> io::Result<OwnedFd> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&poller, listener, data, epoll::EventFlags::IN)?;
    Ok(poller)
}

/// Whether an event loop is woken in time. An event loop that isn't woken has nothing to look at,
/// so it doesn't find a connection that came without a wakeup.
fn woken(poller: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let mut events = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }];
    let count = epoll::wait(poller, &mut events, Some(&timeout))?;
    Ok(count > 0)
}
