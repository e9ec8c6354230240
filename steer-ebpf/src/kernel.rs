//! Reads of kernel memory, at offsets that the loader took from the kernel's BTF.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use steer_common::offsets::{KernelOffsets, MISSING};

/// The offsets of this kernel. The loader sets them before it loads the programs.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: KernelOffsets = KernelOffsets::UNKNOWN;

/// The offset of a field on this kernel. The verifier sees it as a constant.
macro_rules! offset {
    ($field:ident) => {{
        let offset = &raw const crate::kernel::OFFSETS.$field;
        // SAFETY: the pointer is to a field of a static. The loader replaces the contents of the
        // static, hence volatile.
        unsafe { offset.read_volatile() }
    }};
}
pub(crate) use offset;

/// Reads the field at `base + offset`. None if this kernel has no such field, or if the address is
/// not readable. A read takes about 23 ns.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == MISSING {
        return None;
    }
    let address = (base + u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address itself, and fails if the address isn't readable. Every
    // `T` that callers use is an integer or an array of integers, for which any bytes are a value.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}
