//! The kernel object that the build script embedded.

/// Aligned as the headers of an ELF file need it. Empty if steer was built without the object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer-ebpf.o"));

/// This steer was built without its kernel object. It can list groups, but not steer them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this steer was built without its kernel object: run `cargo xtask build` in steer's repository, \
     which also installs the eBPF toolchain, and use target/release/steer"
)]
pub struct NoObject;

/// The kernel object, an ELF file.
///
/// # Errors
/// If steer was built without the eBPF toolchain, or with `STEER_SKIP_EBPF=1`.
pub fn bytes() -> Result<&'static [u8], NoObject> {
    if OBJECT.is_empty() {
        return Err(NoObject);
    }
    Ok(OBJECT)
}

/// The first 12 hexadecimal digits of the object's SHA-256. None if there is no object.
pub fn hash() -> Option<&'static str> {
    let hash = env!("STEER_OBJECT_HASH");
    (!hash.is_empty()).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::{bytes, hash};

    #[test]
    fn an_object_has_a_hash_and_is_an_elf_file() {
        assert_eq!(bytes().is_ok(), hash().is_some());
        if let Ok(object) = bytes() {
            assert!(object.starts_with(b"\x7fELF"));
            assert_eq!(object.as_ptr().align_offset(align_of::<u64>()), 0);
        }
    }
}
