//! Loads the kernel object, with the constants and pinned maps that the loaded part needs.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
};

use anyhow::Context as _;
use aya::{Btf, Ebpf, EbpfLoader, maps::MapData};
use steer_common::{
    names::{GLOBAL_ATTACHMENT, GLOBAL_OFFSETS, GLOBAL_PORT, HOST_MAPS, MAP_EARLIER},
    offsets::KernelOffsets,
};

use crate::{
    kernel::{bpf_sys, kernel_version, lockdown, object, offsets, yama},
    output::exit::{Exit, Fail},
    sys::sockdiag,
};

/// What steer needs to know of this kernel to load programs.
pub struct Kernel {
    /// Where the kernel has the fields that the programs read.
    pub offsets: KernelOffsets,
    /// The kernel's own types. They take tens of megabytes, so they are here only while something
    /// is loaded.
    types: RefCell<Option<Rc<Btf>>>,
    /// Whether anything was loaded since memory was last given back. aya reads the types with
    /// each load.
    loaded: Cell<bool>,
}

/// The constants of one load of the object.
#[derive(Clone, Copy, Debug, Default)]
pub struct Constants {
    /// Index of the attachment.
    pub attachment: u32,
    /// The port of the attachment.
    pub port: u32,
    /// How many entries the map of earlier connections has.
    pub earlier: u32,
}

/// Checks what can be checked before anything is loaded: the kernel's version, its lockdown,
/// Yama, and whether the kernel lists sockets.
fn require() -> anyhow::Result<()> {
    require_version()?;
    lockdown::require().map_err(|error| unsupported(&error))?;
    yama::require()
        .map_err(|error| Fail::new(Exit::NotPermitted, format!("not permitted: {error}")))?;
    sockdiag::require().map_err(|error| {
        let error = anyhow::Error::from(error);
        Fail::new(
            Exit::Unsupported,
            format!("{error:#}; steer needs the kernel module tcp_diag: try `modprobe tcp_diag`"),
        )
    })?;
    Ok(())
}

/// Checks the kernel's version. Nothing of steer works on an older kernel.
pub fn require_version() -> Result<(), Fail> {
    kernel_version::require().map_err(|error| unsupported(&error))
}

fn unsupported(error: &dyn std::fmt::Display) -> Fail {
    Fail::new(
        Exit::Unsupported,
        format!(
            "steer can't work on this kernel: {error} (steer needs Linux 5.14 or later with \
             CONFIG_DEBUG_INFO_BTF=y, as all large distributions have it)"
        ),
    )
}

impl Kernel {
    /// Checks what can be checked before anything is loaded, and reads the kernel's BTF.
    pub fn read() -> anyhow::Result<Self> {
        require()?;
        Ok(Self {
            offsets: offsets::read().map_err(|error| unsupported(&error))?,
            types: RefCell::default(),
            loaded: Cell::default(),
        })
    }

    /// The kernel's own types. They are read if they aren't here already.
    pub fn types(&self) -> anyhow::Result<Rc<Btf>> {
        let mut types = self.types.borrow_mut();
        if let Some(types) = &*types {
            return Ok(Rc::clone(types));
        }
        let read = Rc::new(Btf::from_sys_fs().map_err(|error| unsupported(&error))?);
        *types = Some(Rc::clone(&read));
        Ok(read)
    }

    /// Gives back the memory that loading took. The next load takes it again.
    pub fn forget_types(&self) {
        self.types.take();
        if !self.loaded.take() {
            return;
        }
        // The types are a hundred thousand small pieces, which the allocator would keep for later.
        // SAFETY: the call has no conditions. It touches only memory that is free.
        unsafe { libc::malloc_trim(0) };
    }

    /// Creates the maps of the kernel object, or opens those that are pinned already: the shared
    /// maps in `host`, and the maps that `own` names in its directory. No program is loaded yet.
    pub fn load(
        &self,
        constants: Constants,
        host: &Path,
        own: Option<(&Path, &[&str])>,
    ) -> anyhow::Result<Ebpf> {
        self.loaded.set(true);
        // aya's log levels have the same numbers as the log crate's. 0 is none.
        let level = log::max_level() as u8;
        let mut loader = EbpfLoader::new();
        loader
            // No program of steer's has relocations.
            .btf(None)
            .override_global("AYA_LOG_LEVEL", &level, false)
            .override_global(GLOBAL_OFFSETS, &self.offsets, true)
            .override_global(GLOBAL_ATTACHMENT, &constants.attachment, true)
            .override_global(GLOBAL_PORT, &constants.port, true)
            .map_max_entries(MAP_EARLIER, constants.earlier.max(1));
        for name in HOST_MAPS {
            loader.map_pin_path(name, host.join(name));
        }
        if let Some((dir, names)) = own {
            for name in names {
                loader.map_pin_path(name, dir.join(name));
            }
        }
        loader
            .load(object::bytes()?)
            .context("failed to create the maps of the kernel object")
    }
}

/// Opens a pinned map for reading. The caller needs no permission to change the map.
pub fn open_read_only<T>(
    dir: &Path,
    name: &str,
    wrap: fn(MapData) -> aya::maps::Map,
) -> anyhow::Result<T>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let path = dir.join(name);
    let map = bpf_sys::open_read_only(&path)
        .with_context(|| format!("failed to open the pinned map {}", path.display()))?;
    T::try_from(wrap(MapData::from_fd(map)?))
        .with_context(|| format!("{} is of another type", path.display()))
}

/// Opens a pinned map.
pub fn open<T>(dir: &Path, name: &str, wrap: fn(MapData) -> aya::maps::Map) -> anyhow::Result<T>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let path = dir.join(name);
    let data = MapData::from_pin(&path)
        .with_context(|| format!("failed to open the pinned map {}", path.display()))?;
    T::try_from(wrap(data)).with_context(|| format!("{} is of another type", path.display()))
}
