//! What a unit of workers is told, line by line on its stdin, and what it says on its stdout.
//!
//! Besides the lines below it announces what its workers accept, as [`crate::churn::claims`] says: each of
//! these lines begins with the process and the thread that are the worker, and a colon.

use std::process;

use clap::ValueEnum;

/// How the workers of a unit wait for connections and share their listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A process with one listener and one event loop.
    Epoll,
    /// A process that blocks in accept().
    Accept,
    /// A process of several threads, each with an event loop and a listener of its own.
    Threads,
    /// A master that makes the listeners, and processes that inherit all of them and poll one each.
    Prefork,
    /// As [`Kind::Threads`], but it can shut its listeners down and listen again.
    Pauses,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Epoll,
        Self::Accept,
        Self::Threads,
        Self::Prefork,
        Self::Pauses,
    ];

    /// How many listeners a unit of this kind has.
    pub const fn listeners(self) -> usize {
        match self {
            Self::Epoll | Self::Accept => 1,
            Self::Threads | Self::Prefork | Self::Pauses => 2,
        }
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Accept => "accept",
            Self::Threads => "threads",
            Self::Prefork => "prefork",
            Self::Pauses => "pauses",
        }
    }
}

/// What a unit is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Close all listeners and keep what was accepted.
    Retire,
    /// Shut the listeners down: nothing arrives until [`Order::Again`].
    Pause,
    /// Listen again.
    Again,
    /// Start another process for each listener, besides those that there are.
    Fork,
    /// Have those go that were there before [`Order::Fork`].
    Relieve,
    /// Start another process for each that has died.
    Replace,
}

impl Order {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Retire, "retire"),
        (Self::Pause, "pause"),
        (Self::Again, "again"),
        (Self::Fork, "fork"),
        (Self::Relieve, "relieve"),
        (Self::Replace, "replace"),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(order, _)| *order == self);
        found.map_or("", |(_, word)| word)
    }

    /// What a line says.
    pub fn from_line(line: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, word)| *word == line.trim());
        found.map(|(order, _)| *order)
    }
}

/// How a line begins that tells of a new listener: its mark and its cookie follow.
pub const LISTENING: &str = "listening ";
/// Of a worker that waits for connections: the listener's mark and the worker's pid follow.
pub const SERVING: &str = "serving ";
/// Of a worker that has closed its listener, likewise.
pub const RETIRED: &str = "retired ";
/// Of one whose listener is shut down, likewise.
pub const PAUSED: &str = "paused ";

/// A line of this process about a listener.
pub fn about(what: &str, mark: u32) -> String {
    format!("{what}{mark} {}", process::id())
}

/// The two numbers of a line that begins so.
pub fn numbers(line: &str, what: &str) -> Option<(u32, u64)> {
    let (mark, number) = line.strip_prefix(what)?.trim().split_once(' ')?;
    Some((mark.parse().ok()?, number.parse().ok()?))
}

/// An announcement of a worker, which is a thread of a process.
pub fn announcing(pid: u32, thread: u32, said: &str) -> String {
    format!("{pid}.{thread}: {said}")
}

/// The worker and what it announces, of a line that is an announcement.
pub fn announcement(line: &str) -> Option<((u32, u32), &str)> {
    let (worker, said) = line.split_once(": ")?;
    let (pid, thread) = worker.split_once('.')?;
    Some(((pid.parse().ok()?, thread.parse().ok()?), said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_read_as_it_is_written() {
        for (order, word) in Order::ALL {
            assert_eq!(order.word(), word);
            assert_eq!(Order::from_line(&format!("{word}\n")), Some(order));
        }
        assert_eq!(Order::from_line(""), None);
    }

    #[test]
    fn every_kind_has_the_name_that_clap_knows() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_str(kind.name(), false), Ok(kind));
        }
    }

    #[test]
    fn an_announcement_isnt_a_line_about_a_listener() {
        assert_eq!(numbers("serving 7 812", SERVING), Some((7, 812)));
        assert_eq!(announcement("serving 7 812"), None);
        let line = announcing(812, 813, "accepted 9 7");
        assert_eq!(announcement(&line), Some(((812, 813), "accepted 9 7")));
        assert_eq!(numbers(&announcing(812, 813, "paused 9"), PAUSED), None);
    }
}
