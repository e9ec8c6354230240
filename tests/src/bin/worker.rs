//! The test worker: the demo's single-threaded HTTP worker with the options that tests vary.

use std::{
    ffi::CString,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::Context as _;
use clap::{ArgAction, Parser};
use rustix::thread::set_name;
use steer_tests::{foreign, net};
use steer_user::{
    demo::worker::serve,
    sys::listening::{ListenOptions, listen},
};

/// Serves `/` and `/block?ms=N` with its pid until SIGTERM.
#[derive(Parser)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
struct Args {
    /// Address and port to listen on; may be repeated
    #[arg(long)]
    bind: Vec<SocketAddr>,
    /// Serve the listener that stdin is, as well
    #[arg(long)]
    inherited: bool,
    /// Which IPv6 listeners leave IPv4 alone: one for each --bind, in their order
    #[arg(long, action = ArgAction::Append)]
    v6only: Vec<bool>,
    /// Limit of the accept queue
    #[arg(long, default_value_t = 512)]
    backlog: i32,
    /// Seconds that a connection may stay a handshake without data
    #[arg(long)]
    defer_accept: Option<u32>,
    /// Accept data with the SYN (TCP Fast Open), on so many connections while their handshakes last
    #[arg(long)]
    fast_open: Option<i32>,
    /// Listen alone
    #[arg(long)]
    no_reuse_port: bool,
    /// Listen for Multipath TCP
    #[arg(long)]
    mptcp: bool,
    /// Network device to bind to
    #[arg(long)]
    device: Option<String>,
    /// Name of the process
    #[arg(long)]
    name: Option<CString>,
    /// Attach a program that isn't steer's to the group
    #[arg(long)]
    foreign_program: bool,
    /// Put the listeners into a map that isn't steer's
    #[arg(long)]
    foreign_map: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(name) = &args.name {
        set_name(name).context("failed to set the name")?;
    }
    let listeners = listeners(&args)?;
    if let (true, Some(first)) = (args.foreign_program, listeners.first()) {
        foreign::attach_program(first).context("failed to attach a program")?;
    }
    let mut maps = Vec::new();
    if args.foreign_map {
        for listener in &listeners {
            maps.push(foreign::take_into_map(listener).context("failed to fill a map")?);
        }
    }
    serve(listeners, |addresses| {
        writeln!(io::stdout(), "listening on {addresses:?}")
    })?;
    Ok(())
}

fn listeners(args: &Args) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for (index, address) in args.bind.iter().enumerate() {
        let options = ListenOptions {
            reuse_port: !args.no_reuse_port,
            v6only: args.v6only.get(index).copied(),
            backlog: args.backlog,
            defer_accept: args.defer_accept,
            mptcp: args.mptcp,
            device: args.device.clone(),
            ..ListenOptions::new(*address)
        };
        let listener =
            listen(&options).with_context(|| format!("failed to listen on {address}"))?;
        if let Some(limit) = args.fast_open {
            net::fast_open(&listener, limit).context("failed to enable Fast Open")?;
        }
        listeners.push(listener);
    }
    if args.inherited {
        let listener: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        listeners.push(listener.into());
    }
    Ok(listeners)
}
