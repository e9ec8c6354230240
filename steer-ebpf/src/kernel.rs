//! Reads of kernel memory, at offsets that the loader took from the kernel's BTF.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use steer_common::offsets::{KernelOffsets, MISSING};

/// Set by the loader before the programs are loaded.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: KernelOffsets = KernelOffsets::UNKNOWN;

/// The offset of a field on this kernel, which the verifier sees as a constant.
macro_rules! offset {
    ($field:ident) => {{
        let offset = &raw const crate::kernel::OFFSETS.$field;
        // SAFETY: the address of a static. The loader replaces its contents, hence volatile.
        unsafe { offset.read_volatile() }
    }};
}
pub(crate) use offset;

/// Reads the field at `base + offset`; none where the kernel has no such field, or where the
/// address is not readable. About 23 ns.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == MISSING {
        return None;
    }
    let address = (base + u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address itself and fails on one that isn't readable; every
    // `T` used is an integer, for which any bytes are a value.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}
