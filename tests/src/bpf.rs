//! The system call, for what tests do that no library does.

use std::io;

/// Calls bpf(2) with the start of `union bpf_attr` that `command` reads, and returns what it returns,
/// for the commands below a descriptor or 0.
///
/// # Errors
/// The kernel's.
pub fn bpf<A>(command: libc::c_int, attr: &A) -> io::Result<libc::c_int> {
    // SAFETY: the attribute is a prefix of `union bpf_attr` of the given size, and what it points
    // to lives in the caller's frame. The commands used here (MAP_CREATE, MAP_UPDATE_ELEM,
    // PROG_LOAD, RAW_TRACEPOINT_OPEN, OBJ_GET, those that open by id) write nothing through it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as libc::c_int)
    }
}
