//! How most tests begin: in namespaces of their own, with workers on [`PORT`] of 127.0.0.1, and with a steer that
//! steers them. What must come then is waited for by [`crate::steer::status_when`], or by
//! [`crate::process::eventually`].
//!
//! All of it ends with the test: workers and steer when they are dropped, the namespaces with the last process in
//! them.

use crate::{
    PORT,
    isolate::isolate,
    steer::Attach,
    workers::{self, Worker, local},
};

/// [`isolate`]s the test and starts workers.
///
/// # Errors
/// As [`isolate`] and [`Worker::start`].
pub fn with_workers(count: usize) -> anyhow::Result<Vec<Worker>> {
    isolate()?;
    workers::start(count, &local(PORT).to_string())
}

/// The same, and a steer with that policy and more options.
///
/// # Errors
/// As [`with_workers`] and [`Attach::start`].
pub fn steered(
    workers: usize,
    policy: &str,
    extra: &[&str],
) -> anyhow::Result<(Vec<Worker>, Attach)> {
    let workers = with_workers(workers)?;
    Ok((workers, Attach::start(PORT, policy, extra)?))
}
