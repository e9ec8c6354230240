//! The bpf(2) calls that aya doesn't offer.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::Context as _;
use aya::maps::MapData;
use aya_obj::generated::{
    BPF_F_RDONLY,
    bpf_attach_type::BPF_SK_REUSEPORT_SELECT_OR_MIGRATE,
    bpf_cmd::{self, BPF_MAP_DELETE_ELEM, BPF_MAP_LOOKUP_ELEM, BPF_OBJ_GET, BPF_PROG_LOAD},
    bpf_prog_type::BPF_PROG_TYPE_SK_REUSEPORT,
};
use bytemuck::{Pod, Zeroable};

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here, up to the last field that steer
/// sets.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Loads an SK_REUSEPORT program that migrates, from raw instructions that use no maps. Minimum
/// kernel version: Linux 5.14.
pub fn load_migrating(instructions: &[u64]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_SK_REUSEPORT as u32,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: BPF_SK_REUSEPORT_SELECT_OR_MIGRATE as u32,
        ..LoadAttr::zeroed()
    };
    // SAFETY: the attributes have the size that is passed. What they point to (instructions,
    // licence) outlives the call.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD as libc::c_int,
            &raw const attr,
            size_of::<LoadAttr>(),
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) })
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GetAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// A descriptor of a pinned map by which the map can be read and not changed. Minimum kernel
/// version: Linux 4.15.
pub fn open_read_only(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = GetAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: BPF_F_RDONLY,
    };
    // SAFETY: the attributes have the size that is passed, and the path that they point to
    // outlives the call.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET as libc::c_int,
            &raw const attr,
            size_of::<GetAttr>(),
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) })
}

/// The part of `union bpf_attr` that operations on elements read.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Empties an element of a pinned array of maps. It is no error if the element is empty already.
pub fn clear_inner_map(pin: &Path, index: u32) -> anyhow::Result<()> {
    element(BPF_MAP_DELETE_ELEM, pin, index, 0)
        .map(|_| ())
        .with_context(|| format!("failed to clear {index} in {}", pin.display()))
}

/// The id of the map that is an element of a pinned array of maps. None if the element is empty.
/// Opening that map would take CAP_SYS_ADMIN. This doesn't.
pub fn inner_map(pin: &Path, index: u32) -> anyhow::Result<Option<u32>> {
    let mut id = 0_u32;
    let is_there = element(BPF_MAP_LOOKUP_ELEM, pin, index, (&raw mut id) as u64)
        .with_context(|| format!("failed to read {index} in {}", pin.display()))?;
    Ok(is_there.then_some(id))
}

/// Runs one command on an element of a pinned array of maps. Returns false if the element is
/// empty. `value` is 0, or the address of four bytes that may be written to.
fn element(command: bpf_cmd, pin: &Path, index: u32, value: u64) -> anyhow::Result<bool> {
    let map = MapData::from_pin(pin).context("failed to open the pinned map")?;
    let attr = ElementAttr {
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        reserved: 0,
        key: (&raw const index) as u64,
        value,
        flags: 0,
    };
    // SAFETY: the attributes have the size that is passed. The key that they point to outlives
    // the call and has the map's key size of four bytes. So does what the value may point to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            &raw const attr,
            size_of::<ElementAttr>(),
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        error => Err(error.into()),
    }
}
