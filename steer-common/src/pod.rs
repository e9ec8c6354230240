//! One macro that makes a shared struct usable as a map value on both sides.

/// Derives nothing itself: asserts the size of a shared struct and, for the loader, lets aya read
/// and write it.
macro_rules! map_value {
    ($type:ty, $size:expr) => {
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: the type derives `bytemuck::Pod`, whose derive refuses padding, references and
        // invalid bit patterns, which is all that aya's `Pod` asks for.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use map_value;
