//! `steer demo`: three workers, and the kernel's hash against `rr` against `least`, in twenty
//! seconds.
//!
//! The workers are children that run the same executable, and they know nothing of steer. Each
//! round opens three connections at once. Their requests block the event loop of the worker that
//! gets them. If two connections meet at one worker, one waits for the other. This shows in the
//! time to the round's last answer.

pub mod client;
pub mod worker;

mod children;
mod table;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
};

use self::{
    children::{Children, WORKER_READY},
    client::{Outcome, Target, volley},
    table::{Rounds, Table},
};
use crate::{
    output::{
        exit::{Exit, Fail},
        print,
    },
    sys::listening::{self, ListenOptions},
};

/// How many workers there are, and how many connections each round has.
const WORKERS: usize = 3;

/// The policies that are measured after the kernel's hash.
const POLICIES: [&str; 2] = ["rr", "least"];

/// How much longer than all of a round's work an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The settings of the demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `steer` executable that the children run.
    pub steer: PathBuf,
    /// The rounds under each policy.
    pub rounds: u32,
    /// How long each request blocks its worker's event loop.
    pub block: Duration,
}

/// Why the demo ended without a table.
#[derive(Debug, Error)]
pub enum DemoError {
    /// There is no free port, or no event loop.
    #[error("failed to set the demo up on 127.0.0.1")]
    Setup(#[source] io::Error),
    /// A worker's process didn't start or didn't get ready.
    #[error("failed to start a worker of the demo")]
    StartWorker(#[source] io::Error),
    /// A worker ended before it accepted connections. It said why on stderr.
    #[error("a worker of the demo ended before it accepted connections")]
    WorkerEnded,
    /// A worker couldn't be ended.
    #[error("failed to stop a worker of the demo")]
    StopWorker(#[source] io::Error),
    /// `steer attach` didn't start or didn't get ready.
    #[error("failed to start steer attach")]
    StartAttach(#[source] io::Error),
    /// `steer attach` refused.
    #[error("{said}")]
    Attach {
        /// Its exit code. `None` if a signal killed it.
        code: Option<i32>,
        /// All that it had written to stderr.
        said: String,
    },
    /// `steer attach` couldn't be told to detach.
    #[error("failed to stop steer attach")]
    Detach(#[source] io::Error),
    /// `steer attach` didn't detach cleanly.
    #[error("steer attach did not detach cleanly: {0}")]
    DetachStatus(ExitStatus),
    /// A connection of the demo's own client wasn't served.
    #[error("a connection to 127.0.0.1:{port} under {policy} was {outcome}")]
    Lost {
        /// The port of the demo.
        port: u16,
        /// The policy that was being measured.
        policy: &'static str,
        /// What became of the connection.
        outcome: Outcome,
    },
    /// SIGINT or SIGTERM ended the demo.
    #[error("interrupted; everything that the demo started has been ended")]
    Interrupted,
    /// stdout can't be written to.
    #[error("failed to print the table")]
    Print(#[source] io::Error),
}

impl DemoError {
    /// The error with which the demo ends. If `steer attach` refused, its exit code becomes the
    /// demo's.
    fn into_failure(self) -> anyhow::Error {
        const PASSED_ON: [Exit; 5] = [
            Exit::NotPermitted,
            Exit::NothingThere,
            Exit::CantSteer,
            Exit::Held,
            Exit::Unsupported,
        ];
        let exit = if let Self::Attach { code, .. } = &self {
            PASSED_ON
                .into_iter()
                .find(|exit| *code == Some(*exit as i32))
        } else {
            None
        };
        match exit {
            Some(exit) => Fail::new(exit, self.to_string()).into(),
            None => self.into(),
        }
    }
}

/// Runs the demo, prints its table to stdout, and ends everything that it started, whatever
/// happens.
///
/// # Errors
/// A [`DemoError`] if there is no table to show. The demo needs what `steer attach` needs.
///
/// # Panics
/// If it is called from within a tokio runtime.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DemoError::Setup)?;
    let shown = runtime.block_on(async {
        let mut children = Children::default();
        let played = select! {
            played = play(options, &mut children) => played,
            interrupted = interruption() => Err(interrupted),
        };
        let stopped = children.stop().await;
        let measured = played?;
        stopped?;
        print::data(&Table(&measured).to_string()).map_err(DemoError::Print)
    });
    shown.map_err(DemoError::into_failure)
}

/// Runs a worker of the demo until SIGTERM. It serves on a port of 127.0.0.1.
///
/// # Errors
/// If the port can't be listened on, or if the event loop breaks.
pub fn worker_main(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = listening::listen(&ListenOptions::new(address))?;
    worker::serve(vec![listener], |_| {
        print::data(&format!("{WORKER_READY} {address}\n"))
    })?;
    Ok(())
}

async fn play(options: &Options, children: &mut Children) -> Result<Vec<Rounds>, DemoError> {
    // This socket is bound for as long as the demo runs, so that nobody else gets the port. It
    // doesn't listen, so it isn't in the workers' group.
    let any_port = ListenOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let reservation = listening::bind(&any_port).map_err(DemoError::Setup)?;
    let address = reservation
        .local_addr()
        .map_err(DemoError::Setup)?
        .as_socket()
        .ok_or_else(|| DemoError::Setup(io::ErrorKind::AddrNotAvailable.into()))?;
    let port = address.port();

    for _ in 0..WORKERS {
        children.start_worker(&options.steer, address).await?;
    }
    // Whether steer works here is better known now than after a third of the demo.
    children.attach(&options.steer, port, POLICIES[0]).await?;
    children.detach().await?;

    print::message(&format!(
        "{WORKERS} workers on {address}, {} rounds of {WORKERS} connections at once, each blocking \
         its worker for {} ms",
        options.rounds,
        options.block.as_millis()
    ));
    let mut measured = vec![measure(options, address, "kernel hash").await?];
    for policy in POLICIES {
        children.attach(&options.steer, port, policy).await?;
        measured.push(measure(options, address, policy).await?);
        children.detach().await?;
    }
    Ok(measured)
}

async fn measure(
    options: &Options,
    address: SocketAddr,
    policy: &'static str,
) -> Result<Rounds, DemoError> {
    print::message(&format!("measuring {policy} ..."));
    let block = options.block.as_millis();
    let target = Target {
        address,
        path: format!("/block?ms={block}"),
        patience: options.block * WORKERS as u32 + PATIENCE,
    };
    let mut rounds = Rounds::new(policy);
    for _ in 0..options.rounds {
        let shots = volley(&target, WORKERS).await;
        rounds.add(&shots).map_err(|outcome| DemoError::Lost {
            port: address.port(),
            policy,
            outcome,
        })?;
    }
    Ok(rounds)
}

/// Waits for SIGINT or SIGTERM.
async fn interruption() -> DemoError {
    let (mut interrupt, mut terminate) = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return DemoError::Setup(error),
    };
    select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    DemoError::Interrupted
}
