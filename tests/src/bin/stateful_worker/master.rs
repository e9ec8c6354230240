//! A master that makes listeners and leaves the serving to processes that inherit them.

use std::{
    env,
    io::Write as _,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::Signal,
};
use socket2::Socket;
use steer_tests::stateful::words::{Kind, Order};
use steer_user::sys::orphan::die_with_parent;

use crate::orders;

struct Master {
    address: SocketAddr,
    listeners: Vec<(u32, Socket)>,
    /// Who polls each listener, in their order.
    current: Vec<Child>,
    /// Who did before that, and polls it still.
    former: Vec<Child>,
    /// Who was told to go, and does once it has no connection.
    leaving: Vec<Child>,
}

/// Starts a process for each listener, and does what stdin says until its end. Its processes end with it.
pub(crate) fn run(address: SocketAddr, listeners: Vec<(u32, Socket)>) -> anyhow::Result<()> {
    for (_, listener) in &listeners {
        fcntl_setfd(listener, FdFlags::empty())?;
    }
    let mut master = Master {
        address,
        listeners,
        current: Vec::new(),
        former: Vec::new(),
        leaving: Vec::new(),
    };
    master.fork()?;
    orders(|order| master.obey(order))
}

impl Master {
    fn obey(&mut self, order: Order) -> anyhow::Result<()> {
        self.leaving
            .retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        match order {
            Order::Retire => {
                self.former.append(&mut self.current);
                self.listeners.clear();
                self.relieve()
            }
            Order::Fork => {
                self.former.append(&mut self.current);
                self.fork()
            }
            Order::Relieve => self.relieve(),
            Order::Replace => {
                for place in 0..self.current.len() {
                    if self.current[place].try_wait()?.is_some() {
                        self.current[place] = self.start(place)?;
                    }
                }
                Ok(())
            }
            Order::Pause | Order::Again => Ok(()),
        }
    }

    fn fork(&mut self) -> anyhow::Result<()> {
        for place in 0..self.listeners.len() {
            let child = self.start(place)?;
            self.current.push(child);
        }
        Ok(())
    }

    fn relieve(&mut self) -> anyhow::Result<()> {
        for mut child in self.former.drain(..) {
            // It stays open: a child ends where its stdin does.
            let stdin = child.stdin.as_mut().context("no stdin")?;
            writeln!(stdin, "{}", Order::Retire.word())?;
            self.leaving.push(child);
        }
        Ok(())
    }

    fn start(&self, place: usize) -> anyhow::Result<Child> {
        let (mark, own) = &self.listeners[place];
        let others = self.listeners.iter().filter(|(other, _)| other != mark);
        let inherited = [own]
            .into_iter()
            .chain(others.map(|(_, listener)| listener))
            .map(|listener| listener.as_raw_fd().to_string());
        let inherited: Vec<String> = inherited.collect();
        let mut command = Command::new(env::current_exe()?);
        command
            .args([Kind::Prefork.name(), &self.address.to_string()])
            .arg(mark.to_string())
            .args(["--inherited", &inherited.join(",")])
            .stdin(Stdio::piped());
        die_with_parent(&mut command, Signal::KILL);
        command.spawn().context("failed to start a process")
    }
}
