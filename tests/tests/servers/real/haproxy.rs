//! HAProxy, whose threads have a listener each.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Server, all_listen, here,
    masters::{Masters, wait_for},
};

/// Where it is told what to do: `/run` is the test's own.
const SOCKET: &str = "/run/haproxy.sock";

/// For how long nothing listens.
const PAUSED: Duration = Duration::from_millis(50);

/// The command that starts it.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-W", "-db", "-f"])
        .arg(here().join("haproxy.cfg"));
    command
}

/// One whose listeners are shut down for a while.
pub(super) struct Haproxy(#[expect(dead_code, reason = "it ends with this")] Masters);

impl Haproxy {
    pub(super) fn start(program: &Path) -> anyhow::Result<Self> {
        Masters::one(command(program), Signal::USR2).map(Self)
    }
}

impl Server for Haproxy {
    fn begin(&mut self, _number: usize) -> anyhow::Result<()> {
        tell("disable frontend front")
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        thread::sleep(PAUSED);
        tell("enable frontend front")?;
        wait_for("listeners", all_listen)
    }
}

fn tell(what: &str) -> anyhow::Result<()> {
    let mut socket = UnixStream::connect(SOCKET)?;
    writeln!(socket, "{what}")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    anyhow::ensure!(answer.trim().is_empty(), "haproxy says {answer:?}");
    Ok(())
}
