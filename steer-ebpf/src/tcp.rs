//! Which segments select a listener.

use aya_ebpf::programs::SkReuseportContext;
use steer_common::{counters::Hashed, view::Arrival};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bytes up to and including the flags.
const UP_TO_FLAGS: usize = 14;

/// What a segment that wants a listener is.
pub(crate) enum Segment {
    /// Makes a connection, or may.
    Selects(Arrival),
    /// Makes none (a stray segment): no cursor moves for it.
    Stray,
}

/// Looks at the TCP header, which the kernel puts at the start of the data.
#[inline(always)]
pub(crate) fn classify(ctx: &SkReuseportContext) -> Result<Segment, Hashed> {
    let start = ctx.data();
    if start + UP_TO_FLAGS > ctx.data_end() {
        return Err(Hashed::Malformed);
    }
    // SAFETY: the byte lies within the bounds that were just checked.
    let flags = unsafe { *((start + UP_TO_FLAGS - 1) as *const u8) };
    Ok(match flags & (FIN | SYN | RST | ACK) {
        SYN => Segment::Selects(Arrival::Syn),
        ACK => Segment::Selects(Arrival::Ack),
        _ => Segment::Stray,
    })
}
