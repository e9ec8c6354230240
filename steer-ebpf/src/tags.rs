//! Socket storage that names the slot of a listener, and of every connection that was born on the
//! listener.

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

/// The definition of the map `TAGS`. aya's own definition of socket storage has no BPF_F_CLONE.
/// With that flag a child socket is born with its listener's tag.
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
    // SAFETY: `sk` is the program's own socket, by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: `tag` is null or points to a value of the map, which lives as long as the socket.
    unsafe { tag.as_ref() }.copied()
}

/// Notes that a connection is read from, and returns its tag as it was before. None if the socket
/// has no tag.
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
pub(crate) unsafe fn read(sk: *mut c_void) -> Option<Tag> {
    // SAFETY: `sk` is the program's own socket, by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: `tag` is null or points to a value of the map, which lives as long as the socket.
    // Whoever reads from a socket has its lock, so nobody else looks at the tag meanwhile.
    let tag = unsafe { tag.as_mut() }?;
    let former = *tag;
    if former.stage == Tag::BORN {
        tag.stage = Tag::READ;
    }
    Some(former)
}

/// Moves a socket's tag on to a stage, and returns the tag as it was before.
///
/// None if the socket has no tag, or if the tag had come to that stage already. An example of the
/// latter is the end of a socket that was made the client of another server (connect() to
/// AF_UNSPEC and connect() once more).
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
pub(crate) unsafe fn advance(sk: *mut c_void, stage: u32) -> Option<Tag> {
    // SAFETY: `sk` is the program's own socket, by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: `tag` is null or points to a value of the map, which lives as long as the socket.
    // The state of a socket changes under the socket's lock, so nobody else looks at the tag
    // meanwhile.
    let tag = unsafe { tag.as_mut() }?;
    let former = *tag;
    if former.stage >= stage {
        return None;
    }
    tag.stage = stage;
    Some(former)
}

/// If a socket has become a listener again, makes its tag that of a listener again.
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
pub(crate) unsafe fn listens(sk: *mut c_void) {
    // SAFETY: `sk` is the program's own socket, by this function's contract.
    let tag = unsafe { storage(sk) };
    // SAFETY: `tag` is null or points to a value of the map, which lives as long as the socket.
    // The state of a socket changes under the socket's lock, so nobody else looks at the tag
    // meanwhile.
    if let Some(tag) = unsafe { tag.as_mut() } {
        tag.stage = Tag::UNCOUNTED;
    }
}

/// The socket's tag in the map, or null if it has none.
///
/// # Safety
///
/// As for [`of`].
#[inline(always)]
unsafe fn storage(sk: *mut c_void) -> *mut Tag {
    let map = (&raw const TAGS).cast_mut().cast();
    // SAFETY: `map` is the map's definition, which the loader replaces by the map. `sk` is a
    // socket by this function's contract.
    unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), 0) }.cast()
}

/// Tags a socket. A former tag of the socket is overwritten. False if the kernel can't.
///
/// # Safety
///
/// `sk` is the socket that the iterator was called with.
#[inline(always)]
pub(crate) unsafe fn set(sk: *mut c_void, tag: Tag) -> bool {
    let map = (&raw const TAGS).cast_mut().cast();
    let create = BPF_SK_STORAGE_GET_F_CREATE.into();
    // SAFETY: `map` is the map's definition, which the loader replaces by the map. `sk` is a
    // socket by this function's contract. New storage begins with zeros.
    let stored = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), create) }.cast::<Tag>();
    if stored.is_null() {
        return false;
    }
    // SAFETY: the helper returned a value of the map, which lives as long as the socket. Whoever
    // reads the tag meanwhile may get parts of both tags. Then the generation makes it nobody's
    // tag.
    unsafe { stored.write(tag) };
    true
}
