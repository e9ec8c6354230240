//! A hash of two numbers.

/// Mixes two numbers so that each bit of either changes about half of the result's (the finaliser
/// of MurmurHash3, which is a bijection of the combination).
#[inline(always)]
pub const fn mix(a: u32, b: u32) -> u32 {
    let mut hash = a ^ b.wrapping_mul(0x9e37_79b9);
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
