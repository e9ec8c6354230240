//! What the kernel calls its iterators with.

use aya_ebpf::bindings::seq_file;

/// `struct bpf_iter__tcp`: what the kernel calls `members` and `recount` with.
#[repr(C)]
pub(crate) struct Context {
    meta: *const Meta,
    /// The socket; null at the end of the list.
    pub(crate) socket: *const u8,
}

/// The start of `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__task_file`: what the kernel calls `holders` with.
#[repr(C)]
pub(crate) struct FileContext {
    meta: *const Meta,
    /// A task that has a table of descriptors of its own; null at the end of the list.
    pub(crate) task: *const u8,
    /// One of the task's descriptors.
    pub(crate) fd: u32,
    reserved: u32,
    /// The file that the descriptor is of; null at the end of the list.
    pub(crate) file: *const u8,
}

/// The methods that every context has.
macro_rules! context {
    ($type:ty) => {
        impl $type {
            /// The file that the iterator's reader reads.
            ///
            /// # Safety
            ///
            /// `ctx` is the pointer that the iterator was called with.
            #[inline(always)]
            pub(crate) unsafe fn seq(ctx: *mut Self) -> *mut seq_file {
                // SAFETY: `ctx` is valid by this function's contract.
                let meta = unsafe { (*ctx).meta };
                // SAFETY: the pointer to a context's metadata is never null.
                unsafe { (*meta).seq }
            }
        }
    };
}
context!(Context);
context!(FileContext);
