//! What the kernel programs can read in this kernel, besides what they count themselves.

use steer_common::offsets::{KernelOffsets, MISSING};

/// Something that policies go by, if it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The name that `steer doctor` prints.
    pub name: &'static str,
    /// Whether this kernel's BTF has every field that is needed for it.
    pub on: bool,
    /// What is lost without it.
    pub without: &'static str,
}

/// All such signals, with these offsets.
pub fn of(offsets: &KernelOffsets) -> [Signal; 5] {
    let has = |fields: &[u32]| !fields.contains(&MISSING);
    let group = has(&[
        offsets.sk_reuseport_cb,
        offsets.reuse_num_socks,
        offsets.reuse_socks,
    ]);
    let event_loop = has(&[
        offsets.sk_wq,
        offsets.socket_wq_head,
        offsets.wait_entry,
        offsets.wait_private,
        offsets.eppoll_wait,
        offsets.eppoll_base,
        offsets.epitem_ep,
        offsets.eventpoll_head,
    ]);
    [
        Signal {
            name: "handshakes in flight",
            on: has(&[offsets.request_queue_len]),
            without: "under least and p2c, connections that come within one round trip may all go to one worker",
        },
        Signal {
            name: "accept queue",
            on: has(&[offsets.sk_ack_backlog, offsets.sk_max_ack_backlog]),
            without: "workers with a full accept queue aren't skipped, and no worker is ejected",
        },
        Signal {
            name: "event loop",
            on: event_loop,
            without: "least and p2c go by open connections alone",
        },
        Signal {
            name: "members of the group",
            on: group,
            without: "everything is left to the kernel's hash while a group has listeners that steer doesn't have",
        },
        Signal {
            name: "attached program",
            on: group && has(&[offsets.reuse_prog, offsets.prog_aux, offsets.prog_aux_id]),
            without: "status can't tell whether another program has displaced steer's",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_field_switches_its_signals_off_and_no_others() {
        let every = KernelOffsets {
            request_queue_len: 8,
            ..bytemuck::Zeroable::zeroed()
        };
        assert!(of(&every).iter().all(|signal| signal.on));
        let off = |offsets: KernelOffsets| {
            let signals = of(&offsets);
            let off = signals.into_iter().filter(|signal| !signal.on);
            off.map(|signal| signal.name).collect::<Vec<_>>()
        };
        let without = KernelOffsets {
            epitem_ep: MISSING,
            ..every
        };
        assert_eq!(off(without), ["event loop"]);
        let without = KernelOffsets {
            reuse_num_socks: MISSING,
            ..every
        };
        assert_eq!(off(without), ["members of the group", "attached program"]);
        assert_eq!(off(KernelOffsets::UNKNOWN).len(), 5);
    }
}
