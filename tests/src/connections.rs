//! Open connections, by steer's counts and by the kernel's list.

use std::{net::TcpStream, time::Duration};

use anyhow::Context as _;
use socket2::SockRef;
use steer_user::sys::sockdiag;

use crate::{
    PORT,
    server::{Accepted, Server},
    status::Attachment,
    steer::status_when,
    workers::local,
};

/// What all workers have open by steer's counts.
pub fn active(seen: &Attachment) -> u64 {
    let workers = seen.groups.iter().flat_map(|group| &group.workers);
    workers.map(|worker| worker.active).sum()
}

/// What they have by the kernel's list.
fn listed() -> anyhow::Result<u64> {
    Ok(sockdiag::connections(PORT)?.len() as u64)
}

/// Waits until both are the same.
///
/// # Errors
/// When they don't become the same; it tells `when`.
pub fn agree(when: &str) -> anyhow::Result<Attachment> {
    let same = |seen: &Attachment| listed().is_ok_and(|listed| listed == active(seen));
    status_when(PORT, same).with_context(|| format!("{when}: {:?} are listed", listed()))
}

/// Opens connections whose end is a reset.
///
/// # Errors
/// When one can't be opened.
pub fn connect(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let client = TcpStream::connect(local(PORT)).context("failed to connect")?;
            // Its end is the end.
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            Ok(client)
        })
        .collect()
}

/// Accepts until nothing waits.
///
/// # Errors
/// The kernel's.
pub fn accept(server: &Server) -> anyhow::Result<Vec<Accepted>> {
    let mut all = Vec::new();
    loop {
        let accepted = server.waiting()?;
        if accepted.is_empty() {
            return Ok(all);
        }
        all.extend(accepted);
    }
}
