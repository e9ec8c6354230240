//! `steer` as a user who isn't root, with some capabilities and no others.

use std::{
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
};

use rustix::{
    process::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
        set_thread_gid, set_thread_groups, set_thread_uid,
    },
};

use crate::steer::binary;

/// A user that owns nothing: nobody.
pub const NOBODY: u32 = 65534;

/// Makes what an administrator makes for a steer of this user: the directory of pins. Needs [`crate::isolate::isolate`].
///
/// # Errors
/// When it can't be made.
pub fn own_directory(uid: u32) -> io::Result<()> {
    let directory = "/sys/fs/bpf/steer";
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    chown(directory, Some(uid), Some(uid))
}

/// The `steer` binary at a place where any user may execute it. Needs [`crate::isolate::isolate`].
///
/// # Errors
/// When there is none, or it can't be copied.
pub fn public_binary() -> anyhow::Result<PathBuf> {
    let copy = PathBuf::from("/run/steer-of-the-test");
    if !copy.exists() {
        fs::copy(binary()?, &copy)?;
    }
    Ok(copy)
}

/// `steer` as user `uid` with these capabilities.
///
/// # Errors
/// As [`public_binary`].
pub fn steer_as(uid: u32, capabilities: CapabilitySet) -> anyhow::Result<Command> {
    let mut command = Command::new(public_binary()?);
    let become_user = move || {
        for other in CapabilitySet::all().difference(capabilities).iter() {
            match remove_capability_from_bounding_set(other) {
                // This kernel doesn't have it.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(uid))?;
        set_thread_uid(Uid::from_raw(uid))?;
        let sets = CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: capabilities,
        };
        set_capabilities(None, sets)?;
        for capability in capabilities.iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls for its own thread, the only one,
    // and allocates nothing: an error only wraps a number.
    unsafe { command.pre_exec(become_user) };
    Ok(command)
}
