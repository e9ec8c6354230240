//! What systemd, or whoever listens on `NOTIFY_SOCKET`, is told.

use std::{
    io,
    os::unix::net::UnixDatagram,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use steer_tests::{
    isolate::isolate,
    steer::{Attach, binary},
    texts,
    workers::Worker,
};

const SOCKET: &str = "/run/notify";
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever started steer.
struct Supervisor {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Supervisor {
    fn new() -> anyhow::Result<Self> {
        let socket = UnixDatagram::bind(SOCKET)?;
        let told = Vec::new();
        Ok(Self { socket, told })
    }

    fn start(watchdog: Option<Duration>) -> anyhow::Result<Attach> {
        let mut command = Command::new(binary()?);
        command.args(["attach", "--port", "3000"]);
        command.env("NOTIFY_SOCKET", SOCKET);
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Attach::spawn_command(command)
    }

    /// The next message within this time.
    fn next(&mut self, patience: Duration) -> anyhow::Result<Option<String>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let message = String::from_utf8(buffer[..length].to_vec())?;
                self.told.push(message.clone());
                Ok(Some(message))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message with a line that starts so.
    fn wait(&mut self, start: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let left = left.max(Duration::from_millis(1));
            let message = self.next(left)?.unwrap_or_default();
            if message.lines().any(|line| line.starts_with(start)) {
                return Ok(message);
            }
        }
        anyhow::bail!("never told {start}, but {:?}", self.told)
    }
}

fn send(attach: &Attach, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(attach.pid().cast_signed()).context("a pid")?;
    Ok(kill_process(pid, signal)?)
}

#[test]
#[ignore = "privileged"]
fn it_is_told_how_steer_stands() -> anyhow::Result<()> {
    isolate()?;
    let mut supervisor = Supervisor::new()?;
    let mut attach = Supervisor::start(None)?;
    let ready = supervisor.wait("READY=1")?;
    ensure!(
        ready.contains(&texts::attach::status_waiting(3000)),
        "{ready}"
    );
    let _one = Worker::start("127.0.0.1:3000", &[])?;
    supervisor.wait(&texts::attach::status_steering(3000, 1))?;
    let two = Worker::start("127.0.0.1:3000", &[])?;
    supervisor.wait(&texts::attach::status_steering(3000, 2))?;
    two.stop()?;
    supervisor.wait(&texts::attach::status_steering(3000, 1))?;

    send(&attach, Signal::HUP)?;
    let reloading = supervisor.wait("RELOADING=1")?;
    let since = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let since: i64 = since.context("since when")?.parse()?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    ensure!(
        (now - 60_000_000..=now).contains(&since),
        "{since} at {now}"
    );
    let ready = supervisor.wait("READY=1")?;
    ensure!(
        ready.contains(&format!("{}\n", texts::attach::status_steering(3000, 1))),
        "{ready}"
    );

    send(&attach, Signal::TERM)?;
    supervisor.wait("STOPPING=1")?;
    let ended = attach.wait()?;
    ensure!(ended.success(), "{ended}: {}", attach.said());
    let told = supervisor.told.concat();
    ensure!(!told.contains("WATCHDOG"), "{told}");
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn nothing_is_told_at_idle_but_to_a_watchdog() -> anyhow::Result<()> {
    isolate()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    let mut supervisor = Supervisor::new()?;

    let attach = Supervisor::start(None)?;
    supervisor.wait("READY=1")?;
    let said = supervisor.next(Duration::from_secs(2))?;
    ensure!(said.is_none(), "{said:?}");
    attach.detach()?;
    supervisor.wait("STOPPING=1")?;

    let attach = Supervisor::start(Some(Duration::from_millis(400)))?;
    supervisor.wait("READY=1")?;
    for _ in 0..5 {
        supervisor.wait("WATCHDOG=1")?;
    }
    // A stopped steer doesn't beat.
    send(&attach, Signal::STOP)?;
    while supervisor.next(Duration::from_secs(2))?.is_some() {}
    send(&attach, Signal::CONT)?;
    supervisor.wait("WATCHDOG=1")?;
    attach.detach()?;
    supervisor.wait("STOPPING=1")?;
    Ok(())
}

#[test]
#[ignore = "privileged"]
fn nobody_listening_is_a_warning() -> anyhow::Result<()> {
    isolate()?;
    let _worker = Worker::start("127.0.0.1:3000", &[])?;
    let mut command = Command::new(binary()?);
    command.args(["attach", "--port", "3000"]);
    command.env("NOTIFY_SOCKET", "/run/nowhere");
    let mut attach = Attach::spawn_command(command)?;
    attach.wait_line(texts::attach::STEERING)?;
    attach.wait_line(&texts::attach::nobody_listens())?;
    attach.detach()
}
