//! Makes a group's maps and program, or takes over those that an earlier steer left.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, ensure};
use aya::{
    maps::Map,
    programs::{SkReuseport, sk_reuseport::SkReuseportAttachType},
};
use aya_log::EbpfLogger;
use bytemuck::Zeroable as _;
use steer_common::{
    config::{GroupConfig, GroupKey},
    names,
};

use super::{Group, Place, Rules};
use crate::{
    kernel::{
        loading::{Constants, Kernel, open},
        verifier,
    },
    state::{
        host::{Host, HostLock},
        pins::{Pins, make_dir, remove_tree},
        table::Table,
    },
};

/// Why steer can't make a group after its pins are gone.
const PINS_ARE_GONE: &str = "failed to make a group: steer's pins are gone";

impl Group {
    /// Makes the maps and loads the program of a new group. Nothing is attached yet. The caller
    /// holds the port's lock and the lock for changes.
    pub fn create(
        kernel: &Kernel,
        pins: &Pins,
        host: &mut Host,
        place: Place,
        key: GroupKey,
        migrates: bool,
        rules: Rules,
    ) -> anyhow::Result<Self> {
        ensure!(host.is_pinned(), PINS_ARE_GONE);
        let unfinished = pins.unfinished_group(place.port, 0);
        remove_tree(&unfinished)?;
        make_dir(&unfinished)?;
        let mut group = Self::load(kernel, pins, place, unfinished, migrates)?;
        // The group gets its number last, under the host's lock. So nobody takes the number
        // between the look and the taking.
        let held = HostLock::take_existing()?.context(PINS_ARE_GONE)?;
        ensure!(host.is_pinned(), PINS_ARE_GONE);
        let id = host.free_group(&held)?;
        let dir = pins.group(place.port, id);
        group.id = id;
        group.table.config = GroupConfig {
            key,
            group: id,
            joins_seen: GroupConfig::PARTIAL,
            program_id: group.program_id,
            migrates: u32::from(migrates),
            ..GroupConfig::zeroed()
        };
        group.configure(rules);
        group.table.write_config()?;
        fs::rename(&group.dir, &dir)
            .with_context(|| format!("failed to make {}", dir.display()))?;
        group.dir = dir;
        // If steer is killed before this, the directory's name still reserves the number.
        host.set_group(&held, id, &group.dir)?;
        Ok(group)
    }

    /// Takes over a group that an earlier steer left pinned. The program is loaded anew. With the
    /// next attach it takes the place of the former program, without a gap. If `rules` is none,
    /// the group keeps its rules. The caller holds the port's lock and the lock for changes.
    pub fn adopt(
        kernel: &Kernel,
        pins: &Pins,
        host: &mut Host,
        place: Place,
        id: u32,
        migrates: bool,
        rules: Option<Rules>,
    ) -> anyhow::Result<Self> {
        let dir = pins.group(place.port, id);
        let mut group = Self::load(kernel, pins, place, dir, migrates)?;
        group.id = id;
        if let Some(rules) = rules {
            group.configure(rules);
        }
        group.table.write_config()?;
        let held = HostLock::take_existing()?.context(PINS_ARE_GONE)?;
        host.set_group(&held, id, &group.dir)?;
        group.adopted = true;
        Ok(group)
    }

    fn load(
        kernel: &Kernel,
        pins: &Pins,
        place: Place,
        dir: PathBuf,
        migrates: bool,
    ) -> anyhow::Result<Self> {
        let constants = Constants {
            attachment: place.attachment,
            port: u32::from(place.port.port),
            ..Constants::default()
        };
        let own = (dir.as_path(), &names::GROUP_MAPS[..]);
        let (name, kind) = if migrates {
            (
                names::PROGRAM_MIGRATE,
                SkReuseportAttachType::SelectOrMigrate,
            )
        } else {
            (names::PROGRAM_SELECT, SkReuseportAttachType::Select)
        };
        let mut ebpf = kernel.load(constants, &pins.host(), Some(own))?;
        let program: &mut SkReuseport = ebpf
            .program_mut(name)
            .context("the kernel object has no selecting program")?
            .try_into()?;
        verifier::load(name, || program.load())?;
        let program_id = program.info()?.id();
        let pin = dir.join(names::PROGRAM_SELECT);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {}", pin.display()));
            }
            _ => {}
        }
        program
            .pin(&pin)
            .with_context(|| format!("failed to pin {}", pin.display()))?;
        // The rest of the object isn't needed any more. It has a descriptor for each of its maps.
        let program = SkReuseport::from_pin(&pin, kind)?;
        let logger = if log::log_enabled!(log::Level::Debug) {
            Some(EbpfLogger::init(&mut ebpf).context("failed to read the programs' log")?)
        } else {
            None
        };
        Ok(Self {
            id: 0,
            table: Table::open(&dir)?,
            program_id,
            migrates,
            place,
            sockets: open(&dir, names::MAP_SOCKETS, Map::ReusePortSockArray)?,
            counters: open(&dir, names::MAP_GROUP, Map::Array)?,
            hashed: 0,
            dir,
            program,
            logger,
            adopted: false,
            to_know: Vec::new(),
        })
    }
}
