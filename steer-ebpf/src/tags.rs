//! Socket storage that names the slot of a listener, and of every connection born on it.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE,
        bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
    },
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use steer_common::slot::Tag;

/// aya's own definition of socket storage has no BPF_F_CLONE, with which a child socket is born
/// with its listener's tag.
#[repr(C)]
struct TagStorage {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Tag,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers only describe types to the loader; nothing ever follows them.
unsafe impl Sync for TagStorage {}

#[btf_map]
static TAGS: TagStorage = TagStorage {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

/// The tag of a socket.
///
/// # Safety
///
/// `sk` is the pointer that the tracepoint or the iterator was called with.
#[inline(always)]
pub(crate) unsafe fn of(sk: *mut c_void) -> Option<Tag> {
    // SAFETY: by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: null or a value of the map, which lives as long as the socket.
    unsafe { tag.as_ref() }.copied()
}

/// Notes that a connection is read from, and returns its tag as it was before.
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
pub(crate) unsafe fn read(sk: *mut c_void) -> Option<Tag> {
    // SAFETY: by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: as in `advance`: whoever reads has the socket's lock, too.
    let tag = unsafe { tag.as_mut() }?;
    let former = *tag;
    if former.stage == Tag::BORN {
        tag.stage = Tag::READ;
    }
    Some(former)
}

/// Moves a socket's tag on to a stage and returns it as it was before; none where it was there
/// already, as at the end of a socket that was made the client of another server (connect() to
/// AF_UNSPEC and once more).
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
pub(crate) unsafe fn advance(sk: *mut c_void, stage: u32) -> Option<Tag> {
    // SAFETY: by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: null or a value of the map, which lives as long as the socket; its state changes
    // under the socket's lock, so that nobody else looks at it meanwhile.
    let tag = unsafe { tag.as_mut() }?;
    let former = *tag;
    if former.stage >= stage {
        return None;
    }
    tag.stage = stage;
    Some(former)
}

/// Makes the tag of a socket that has become a listener once more one of a listener.
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
pub(crate) unsafe fn listens(sk: *mut c_void) {
    // SAFETY: by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: as in `advance`.
    if let Some(tag) = unsafe { tag.as_mut() } {
        tag.stage = Tag::UNCOUNTED;
    }
}

/// # Safety
///
/// As for [`of`].
#[inline(always)]
unsafe fn storage(sk: *mut c_void) -> *mut Tag {
    let map = (&raw const TAGS).cast_mut().cast();
    // SAFETY: `map` is the map's definition, which the loader replaces by the map, and `sk` is a
    // socket by this function's contract.
    unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), 0) }.cast()
}

/// Tags a socket, in the place of any former tag; false where the kernel can't.
///
/// # Safety
///
/// `sk` is the socket that the iterator was called with.
#[inline(always)]
pub(crate) unsafe fn set(sk: *mut c_void, tag: Tag) -> bool {
    let map = (&raw const TAGS).cast_mut().cast();
    let create = BPF_SK_STORAGE_GET_F_CREATE.into();
    // SAFETY: a socket by this function's contract; new storage begins with zeros.
    let stored = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), create) }.cast::<Tag>();
    if stored.is_null() {
        return false;
    }
    // SAFETY: the helper returned a value of the map, which lives as long as the socket. Whoever
    // reads it meanwhile may get parts of both tags, which the generation makes one of nobody's.
    unsafe { stored.write(tag) };
    true
}
