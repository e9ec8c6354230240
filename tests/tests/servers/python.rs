//! Real asyncio workers of Python.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use steer_tests::{
    PORT, census,
    process::{Output, Process},
    servers::{self, Room},
    skip::skip,
    steer::Attach,
    workers::local,
};

#[test]
#[ignore = "privileged"]
fn rr_gives_three_asyncio_workers_exactly_the_same() -> anyhow::Result<()> {
    let python = match servers::program("python3", "python3") {
        Ok(python) => python,
        Err(reason) => return skip("rr_gives_three_asyncio_workers_exactly_the_same", &reason),
    };
    let _room = Room::enter()?;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let mut command = Command::new(&python);
        command
            .arg(servers::file("worker.py"))
            .arg(PORT.to_string())
            .stdin(Stdio::null());
        let mut worker = Process::spawn(command, Output::Stdout)?;
        worker.wait_line("listening", Duration::from_secs(20))?;
        workers.push(worker);
    }
    let pids = servers::pids(local(PORT), workers.len())?;
    let attach = Attach::start(PORT, "rr", &[])?;
    census::one_by_one(local(PORT), 900)?.exactly(&pids, 300)?;
    attach.detach()
}
