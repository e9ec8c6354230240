//! Why steer finds nothing to read or change on a port. Nobody steers it, or a steer whose maps
//! have another layout does, or a program whose pins aren't seen here.

use anyhow::Context as _;

use crate::{
    output::exit::{Exit, Fail},
    state::{bpffs, host, pins::Pins},
    steering::{abandoned, older},
    survey::port::Port,
    sys::sockdiag,
};

/// Why there is nothing to read or change on a port.
pub fn not_steered(port: Port) -> anyhow::Error {
    let pins = match bpffs::existing_root() {
        Ok(root) => root.map(|root| Pins::new(&root)),
        Err(error) => return error.into(),
    };
    if let Some(pins) = &pins
        && let Err(error) = by_no_other(pins, port)
    {
        return error;
    }
    let tracker = pins.as_ref().and_then(host::tracker);
    let unpinned = abandoned::unpinned(tracker, |program| port.has(&program.key));
    let what = match unpinned.first() {
        Some(program) => format!("tcp {}", program.describe()),
        None => format!(
            "tcp port {} is not steered in this network namespace{}; `steer status` shows what is steered",
            port.port,
            udp(port.port)
        ),
    };
    Fail::new(Exit::NothingThere, what).into()
}

/// What to add to a message if only UDP sockets are bound to the port in this network namespace.
pub fn udp(port: u16) -> &'static str {
    // This text only explains. If the kernel can't list the sockets, the message is true without
    // it.
    let has_tcp = || sockdiag::listeners(port).is_ok_and(|found| !found.is_empty());
    if sockdiag::has_udp(port).unwrap_or(false) && !has_tcp() {
        "; UDP sockets are bound to that port, and steer steers TCP only"
    } else {
        ""
    }
}

/// Checks that no steer whose maps have another layout has the port.
fn by_no_other(pins: &Pins, port: Port) -> anyhow::Result<()> {
    let others = pins.other_layouts(port);
    let others = others.context("failed to list what is pinned")?;
    match others.first() {
        None => Ok(()),
        Some((layout, _)) => Err(older::describe(port, *layout).into()),
    }
}
