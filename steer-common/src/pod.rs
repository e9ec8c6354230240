//! One macro that makes a shared struct usable as a map value in the kernel and on the host.

/// Asserts the size of a shared struct. For the loader, also lets aya read and write the struct.
/// The macro derives nothing by itself.
macro_rules! map_value {
    ($type:ty, $size:expr) => {
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: the type derives `bytemuck::Pod`. That derive refuses padding, references and
        // invalid bit patterns, which is all that aya's `Pod` asks for.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use map_value;
