//! The kernel's objects of steer: programs, maps and links. Their numbers are never given twice, so
//! whatever was there once and isn't any more is gone for good.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::fd::{FromRawFd as _, OwnedFd},
};

use crate::{bpf::bpf, isolate::leftovers};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_int = 14;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;

/// Kind and number of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A program.
    Program(u32),
    /// A map.
    Map(u32),
    /// A link.
    Link(u32),
}

impl Object {
    /// The object that a descriptor of a process is, as its `fdinfo` has it.
    fn of(fdinfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = fdinfo.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        // A link's names its program as well.
        field("link_id:")
            .map(Self::Link)
            .or_else(|| field("prog_id:").map(Self::Program))
            .or_else(|| field("map_id:").map(Self::Map))
    }

    /// Whether the kernel still has it.
    pub fn exists(self) -> bool {
        let (command, id) = match self {
            Self::Program(id) => (BPF_PROG_GET_FD_BY_ID, id),
            Self::Map(id) => (BPF_MAP_GET_FD_BY_ID, id),
            Self::Link(id) => (BPF_LINK_GET_FD_BY_ID, id),
        };
        match bpf(command, &[id, 0, 0]) {
            Ok(fd) => {
                close(fd);
                true
            }
            Err(error) => error.raw_os_error() != Some(libc::ENOENT),
        }
    }
}

/// The objects that a process has open.
pub fn open_in(pid: u32) -> BTreeSet<Object> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return BTreeSet::new();
    };
    // A descriptor may be closed meanwhile.
    let texts = entries
        .flatten()
        .map(|entry| fs::read_to_string(entry.path()));
    texts
        .flatten()
        .filter_map(|text| Object::of(&text))
        .collect()
}

/// The objects that are pinned in the test's bpffs.
///
/// # Errors
/// When it can't be listed.
pub fn pinned() -> anyhow::Result<BTreeSet<Object>> {
    let mut objects = BTreeSet::new();
    for file in leftovers()? {
        let Ok(name) = CString::new(file.into_os_string().into_encoded_bytes()) else {
            continue;
        };
        let attributes = [name.as_ptr() as u64, 0];
        // A pin may be removed meanwhile, and a lock is none.
        let Ok(fd) = bpf(BPF_OBJ_GET, &attributes) else {
            continue;
        };
        let fdinfo = fs::read_to_string(format!("/proc/thread-self/fdinfo/{fd}"));
        close(fd);
        objects.extend(fdinfo.ok().as_deref().and_then(Object::of));
    }
    Ok(objects)
}

/// Closes a descriptor that bpf(2) has made.
fn close(fd: libc::c_int) {
    // SAFETY: it was just made, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
