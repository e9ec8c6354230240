//! Faults that are injected under load, each in namespaces of its own, and what comes of them.
//!
//! `cargo xtask faults` prints all of them as a table; the test `faults` runs the quick ones.

mod clocks;
mod descriptors;
mod displaced;
mod group_vanishes;
mod killed_steer;
mod killed_worker;
mod load;
mod orphaned;
mod overflow;
mod overrun;
mod row;
mod stopped_worker;
mod surplus;
mod table;
mod unmounted;

use std::thread;

pub use row::Row;
pub use table::markdown;

use crate::isolate::isolate;

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What `--only` selects it by.
    pub name: &'static str,
    /// What happens.
    pub what: &'static str,
    /// Injects it, in namespaces of the calling thread's own.
    inject: fn() -> anyhow::Result<Vec<Row>>,
}

/// Every fault, in the order of the table.
pub const ALL: [Fault; 15] = [
    Fault {
        name: "killed-worker",
        what: "a worker gets SIGKILL with connections waiting in its accept queue, 20 times",
        inject: killed_worker::inject,
    },
    Fault {
        name: "stopped-worker",
        what: "one of four workers gets SIGSTOP for 7 s",
        inject: stopped_worker::inject,
    },
    Fault {
        name: "overflow",
        what: "more connections at once than the accept queues take",
        inject: overflow::inject,
    },
    Fault {
        name: "descriptors",
        what: "steer may open few files (RLIMIT_NOFILE)",
        inject: descriptors::inject,
    },
    Fault {
        name: "surplus",
        what: "more workers than slots",
        inject: surplus::inject,
    },
    Fault {
        name: "displaced",
        what: "another program is attached to the group over steer's",
        inject: displaced::inject,
    },
    Fault {
        name: "unmounted",
        what: "the bpffs with steer's pins is unmounted",
        inject: unmounted::inject,
    },
    Fault {
        name: "orphaned",
        what: "steer gets SIGKILL in a container that has the bpffs with its pins for itself",
        inject: orphaned::inject,
    },
    Fault {
        name: "overrun",
        what: "steer stopped while 4,000 events come, more than its ring buffer takes",
        inject: overrun::inject,
    },
    Fault {
        name: "group-vanishes",
        what: "all workers get SIGKILL while steer attaches, 40 times",
        inject: group_vanishes::inject,
    },
    Fault {
        name: "killed-attach",
        what: "steer gets SIGKILL before each step that leaves something, while it attaches",
        inject: killed_steer::in_attach,
    },
    Fault {
        name: "killed-join",
        what: "steer gets SIGKILL before each step that leaves something, while it adds a worker",
        inject: killed_steer::in_join,
    },
    Fault {
        name: "killed-detach",
        what: "steer gets SIGKILL before each step that leaves something, while it detaches",
        inject: killed_steer::in_detach,
    },
    Fault {
        name: "killed-reload",
        what: "steer gets SIGKILL before each step that leaves something, while it executes its file again",
        inject: killed_steer::in_reload,
    },
    Fault {
        name: "clocks",
        what: "clocks jump",
        inject: clocks::inject,
    },
];

impl Fault {
    /// Injects the fault and tells what came of it. A failure to do so is a row that doesn't hold.
    pub fn run(&self) -> Vec<Row> {
        let inject = self.inject;
        let thread = thread::spawn(move || {
            isolate()?;
            inject()
        });
        let rows = match thread.join() {
            Ok(rows) => rows,
            Err(_) => Err(anyhow::anyhow!("it panicked")),
        };
        rows.unwrap_or_else(|error| vec![Row::failed(&error)])
    }
}

/// The fault of this name.
pub fn named(name: &str) -> Option<Fault> {
    ALL.into_iter().find(|fault| fault.name == name)
}
