//! The one bpf(2) call that aya doesn't offer.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::Context as _;
use aya::maps::MapData;

/// `BPF_MAP_DELETE_ELEM`
const MAP_DELETE_ELEM: libc::c_int = 3;

/// The part of `union bpf_attr` that operations on elements use.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Empties an element of a pinned array of maps; one that is empty already is fine.
pub fn clear_inner_map(pin: &Path, index: u32) -> anyhow::Result<()> {
    let map = MapData::from_pin(pin)
        .with_context(|| format!("failed to open the pinned map {}", pin.display()))?;
    let attr = ElementAttr {
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const index) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: the attributes are of the size that is passed, and the key they point to outlives
    // the call and has the map's key size of four bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_DELETE_ELEM,
            &raw const attr,
            size_of::<ElementAttr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        error => {
            Err(error).with_context(|| format!("failed to clear {index} in {}", pin.display()))
        }
    }
}
