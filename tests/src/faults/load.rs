//! Connections at a constant rate, which doesn't wait for answers.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use steer_user::{
    demo::client::volley,
    kernel::migration::{self, Trial},
};
use tokio::{task::JoinSet, time::interval};

use super::Row;
use crate::{
    PORT, Shot, Target, census,
    workers::{Worker, local},
};

/// A running load. It ends, unheard, with the process.
#[derive(Debug)]
pub(super) struct Load {
    rate: u32,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<(usize, Vec<Shot>)>>,
}

impl Load {
    /// Opens `rate` connections a second to the workers of [`PORT`] from now on, each of which keeps
    /// its worker busy for a millisecond.
    pub(super) fn start(rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let target = Target {
            path: "/block?ms=1".to_owned(),
            ..census::root(local(PORT))
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(run(&target, rate, &stopped)))
        });
        Self { rate, stop, thread }
    }

    /// Stops a worker: under the load where this kernel migrates what waits for the worker, and else while
    /// there is none, since it would be reset.
    pub(super) fn around(self, worker: Worker, row: &mut Row) -> anyhow::Result<Self> {
        if migration::trial()? == Trial::Sound {
            worker.stop()?;
            return Ok(self);
        }
        let rate = self.rate;
        self.finish(row)?;
        worker.stop()?;
        Ok(Self::start(rate))
    }

    /// Opens no more, waits for the end of all that were opened, and adds them to a row.
    pub(super) fn finish(self, row: &mut Row) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let run = self.thread.join();
        let (sent, shots) = run
            .map_err(|_panic| anyhow!("the load panicked"))?
            .context("failed to set up the load")?;
        row.add(sent, &shots);
        Ok(())
    }
}

async fn run(target: &Target, rate: u32, stopped: &AtomicBool) -> (usize, Vec<Shot>) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut connections = JoinSet::new();
    let mut sent = 0;
    let mut shots = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        ticks.tick().await;
        sent += 1;
        let target = target.clone();
        connections.spawn(async move { volley(&target, 1).await });
        while let Some(ended) = connections.try_join_next() {
            // One whose task failed is missing from then on, and noticed by its absence.
            shots.extend(ended.into_iter().flatten());
        }
    }
    while let Some(ended) = connections.join_next().await {
        shots.extend(ended.into_iter().flatten());
    }
    (sent, shots)
}
