//! Where the maps of layout 4 have what outlives an upgrade.

use std::{path::Path, time::Duration};

use aya::maps::{Array, HashMap, Map};
use steer_common::{names, policy::Policy, registry::IPPROTO_TCP};

use super::{Settings, Worker};
use crate::{kernel::loading::open, steering::group::Rules, survey::port::Port};

/// The number of the layout.
pub(super) const LAYOUT: u64 = 4;

/// How many slots a group has.
pub(super) const SLOTS: u32 = 256;

const CONFIG: usize = 232;
const EJECT_AFTER: usize = 168;
const POLICY: usize = 180;
const PROGRAM: usize = 200;
const STICKY_V4: usize = 204;
const STICKY_V6: usize = 208;
const FORMER_PROGRAM: usize = 220;

const SLOT: usize = 72;
const COOKIE: usize = 0;
const STATE: usize = 20;
const WEIGHT: usize = 24;
const FLAGS: usize = 52;

const LIVE: u32 = 1;

/// Reads a group's maps.
pub(super) fn settings(dir: &Path) -> anyhow::Result<Settings> {
    let config: Array<_, [u8; CONFIG]> = open(dir, names::MAP_CONFIG, Map::Array)?;
    let slots: Array<_, [u8; SLOT]> = open(dir, names::MAP_SLOTS, Map::Array)?;
    let mut workers = Vec::new();
    for slot in 0..SLOTS {
        workers.extend(worker(&slots.get(&slot, 0)?));
    }
    Ok(Settings {
        workers,
        ..settings_in(&config.get(&0, 0)?)
    })
}

/// The index of a port's attachment in its host's maps.
pub(super) fn attachment(host: &Path, port: Port) -> anyhow::Result<Option<u32>> {
    let ports: HashMap<_, [u8; 16], u32> = open(host, names::MAP_PORTS, Map::HashMap)?;
    Ok(ports.get(&key(port), 0).ok())
}

/// Forgets a port's attachment.
pub(super) fn unregister(host: &Path, port: Port) -> anyhow::Result<()> {
    let mut ports: HashMap<_, [u8; 16], u32> = open(host, names::MAP_PORTS, Map::HashMap)?;
    Ok(ports.remove(&key(port))?)
}

/// Whether any port is registered.
pub(super) fn is_used(host: &Path) -> anyhow::Result<bool> {
    let ports: HashMap<_, [u8; 16], u32> = open(host, names::MAP_PORTS, Map::HashMap)?;
    Ok(ports.iter().next().is_some())
}

fn settings_in(config: &[u8; CONFIG]) -> Settings {
    let number = |at| u32_at(config, at);
    Settings {
        rules: Rules {
            policy: Policy::from_raw(number(POLICY)),
            eject_after: Duration::from_nanos(u64_at(config, EJECT_AFTER)),
            sticky_v4: number(STICKY_V4).min(32),
            sticky_v6: number(STICKY_V6).min(128),
        },
        programs: [number(PROGRAM), number(FORMER_PROGRAM)],
        workers: Vec::new(),
    }
}

fn worker(slot: &[u8; SLOT]) -> Option<Worker> {
    (u32_at(slot, STATE) == LIVE).then(|| Worker {
        cookie: u64_at(slot, COOKIE),
        weight: u32_at(slot, WEIGHT),
        flags: u32_at(slot, FLAGS),
    })
}

fn key(port: Port) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&port.netns_cookie.to_ne_bytes());
    key[8..12].copy_from_slice(&u32::from(port.port).to_ne_bytes());
    key[12..].copy_from_slice(&IPPROTO_TCP.to_ne_bytes());
    key
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_where_layout_4_had_them() {
        let mut config = [0xff; CONFIG];
        config[168..176].copy_from_slice(&2_000_000_000_u64.to_ne_bytes());
        config[180..184].copy_from_slice(&(Policy::Sticky as u32).to_ne_bytes());
        config[200..204].copy_from_slice(&7_u32.to_ne_bytes());
        config[204..208].copy_from_slice(&24_u32.to_ne_bytes());
        config[208..212].copy_from_slice(&48_u32.to_ne_bytes());
        config[220..224].copy_from_slice(&8_u32.to_ne_bytes());
        let Settings {
            rules, programs, ..
        } = settings_in(&config);
        assert_eq!(programs, [7, 8]);
        assert_eq!(rules.policy, Policy::Sticky);
        assert_eq!(rules.eject_after, Duration::from_secs(2));
        assert_eq!((rules.sticky_v4, rules.sticky_v6), (24, 48));
    }

    #[test]
    fn only_a_live_slot_has_a_worker() {
        let mut slot = [0xff; SLOT];
        slot[..8].copy_from_slice(&5_u64.to_ne_bytes());
        slot[24..28].copy_from_slice(&3_u32.to_ne_bytes());
        slot[52..56].copy_from_slice(&2_u32.to_ne_bytes());
        for (state, is_live) in [(0_u32, false), (1, true), (2, false)] {
            slot[20..24].copy_from_slice(&state.to_ne_bytes());
            let found = Worker {
                cookie: 5,
                weight: 3,
                flags: 2,
            };
            assert_eq!(worker(&slot), is_live.then_some(found));
        }
    }
}
