//! What other tools do to a group: attach a program of theirs, or put listeners into a map.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::bpf::bpf;

/// `BPF_MAP_CREATE`.
const MAP_CREATE: libc::c_int = 0;
/// `BPF_MAP_UPDATE_ELEM`.
const MAP_UPDATE: libc::c_int = 2;
/// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`.
const REUSEPORT_SOCKARRAY: u32 = 20;

/// Gives the listener's group a classic BPF program that always selects its first member.
///
/// # Errors
/// When the kernel refuses.
pub fn attach_program(listener: &impl AsFd) -> io::Result<()> {
    // ret #0
    let mut instructions = [libc::sock_filter {
        code: libc::BPF_RET as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open for as long as `listener` is borrowed, and the kernel reads one
    // `sock_fprog` and the one instruction that it points to, which both outlive the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `union bpf_attr` as `BPF_MAP_CREATE` reads it.
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// `union bpf_attr` as `BPF_MAP_UPDATE_ELEM` reads it.
#[repr(C)]
struct UpdateAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Makes a `REUSEPORT_SOCKARRAY` and puts the listener into it, which keeps it out of any other for
/// as long as the map exists.
///
/// # Errors
/// When the kernel refuses.
pub fn take_into_map(listener: &impl AsFd) -> io::Result<OwnedFd> {
    let create = CreateAttr {
        map_type: REUSEPORT_SOCKARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
    };
    let map = bpf(MAP_CREATE, &create)?;
    // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    let key = 0_u32;
    let value = listener.as_fd().as_raw_fd() as u64;
    let update = UpdateAttr {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE, &update)?;
    Ok(map)
}
