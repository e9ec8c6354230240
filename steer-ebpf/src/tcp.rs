//! Which segments select a listener, and where in the packet the TCP header is.
//!
//! TCP itself looks a listener up when it has the packet, whose data begin with the TCP header then. nftables and
//! iptables do it earlier (TPROXY, and expressions on the socket that a packet is for): the data begin
//! with the IP header then.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_hdr_start_off::BPF_HDR_START_NET, sk_reuseport_md},
    helpers::generated::bpf_skb_load_bytes_relative,
    programs::SkReuseportContext,
};
use steer_common::{counters::Hashed, view::Arrival};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Words up to and including the flags.
const WORDS: usize = 4;
/// Bytes of these.
const BYTES: usize = 4 * WORDS;

/// The IP header without options, and the IPv6 header, in words.
const IPV4: usize = 5;
const IPV6: u32 = 40;

/// Headers that may come between the IPv6 header and TCP's.
const EXTENSIONS: u32 = 8;

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

/// What a segment that wants a listener is.
#[derive(Clone, Copy)]
pub(crate) enum Segment {
    /// Makes a connection, or may.
    Selects(Arrival),
    /// Makes none (a stray segment): no cursor moves for it.
    Stray,
}

/// A segment that wants a listener.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) segment: Segment,
    /// Whether it is looked up before TCP has it.
    pub(crate) early: bool,
    /// Its ports and its sequence number.
    pub(crate) names: [u32; 2],
}

/// Looks at the TCP header.
#[inline(always)]
pub(crate) fn look(ctx: &SkReuseportContext) -> Result<Packet, Hashed> {
    let start = ctx.data();
    if start + BYTES > ctx.data_end() {
        return Err(Hashed::Malformed);
    }
    // SAFETY: the words lie within the bounds that were just checked; the helper for unaligned reads isn't
    // needed, as the kernel aligns headers or allows it.
    let mut words = unsafe { (start as *const [u32; WORDS]).read_unaligned() };
    let mut early = false;
    if may_be_ip(ctx, words) {
        let md: *mut sk_reuseport_md = ctx.as_ptr().cast();
        // SAFETY: the program's own context.
        match unsafe { offset_of_tcp(md) } {
            AT_THE_START => {}
            NOWHERE => return Err(Hashed::Malformed),
            offset => {
                words = load(ctx, offset).ok_or(Hashed::Malformed)?;
                early = true;
            }
        }
    }
    Ok(packet(words, early))
}

#[inline(always)]
fn packet(words: [u32; WORDS], early: bool) -> Packet {
    let [_, flags, ..] = words[3].to_ne_bytes();
    Packet {
        segment: match flags & (FIN | SYN | RST | ACK) {
            SYN => Segment::Selects(Arrival::Syn),
            ACK => Segment::Selects(Arrival::Ack),
            _ => Segment::Stray,
        },
        early,
        names: [words[0], words[1]],
    }
}

/// Whether these may be the first words of an IP header: those of one tell the packet's length.
#[inline(always)]
fn may_be_ip(ctx: &SkReuseportContext, words: [u32; WORDS]) -> bool {
    let [first, _, high, low] = words[0].to_ne_bytes();
    match first >> 4 {
        4 => u32::from(u16::from_be_bytes([high, low])) == ctx.len() as u32,
        6 => {
            let [high, low, ..] = words[1].to_ne_bytes();
            u32::from(u16::from_be_bytes([high, low])) + IPV6 == ctx.len() as u32
        }
        _ => false,
    }
}

/// What [`offset_of_tcp`] returns where the data begin with the TCP header, which can look like an IP header:
/// the real one lies before it then, and tells another length.
const AT_THE_START: u32 = 0;
/// What it returns where no TCP header is found.
const NOWHERE: u32 = u32::MAX;

/// Where the TCP header is, from the IP header on. A function that the verifier looks at once.
///
/// # Safety
///
/// `md` is the context that the program was called with.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn offset_of_tcp(md: *mut sk_reuseport_md) -> u32 {
    let ctx = SkReuseportContext::new(md);
    let Some(header) = load::<IPV4>(&ctx, 0) else {
        return NOWHERE;
    };
    let [first, _, high, low] = header[0].to_ne_bytes();
    if first >> 4 == 4 {
        let [_, protocol, ..] = header[2].to_ne_bytes();
        return if u32::from(u16::from_be_bytes([high, low])) != ctx.len() as u32 {
            AT_THE_START
        } else if protocol == TCP {
            4 * u32::from(first & 15)
        } else {
            NOWHERE
        };
    }
    let [high, low, next, _] = header[1].to_ne_bytes();
    if u32::from(u16::from_be_bytes([high, low])) + IPV6 == ctx.len() as u32 {
        after_extensions(&ctx, next)
    } else {
        AT_THE_START
    }
}

/// Where it is in an IPv6 packet whose first header is followed by one of this kind.
#[inline(always)]
fn after_extensions(ctx: &SkReuseportContext, first: u8) -> u32 {
    let mut next = first;
    let mut offset = IPV6;
    for _ in 0..EXTENSIONS {
        if next == TCP {
            return offset;
        }
        let Some([header]) = load(ctx, offset) else {
            return NOWHERE;
        };
        let [following, length, high, low] = header.to_ne_bytes();
        let length = u32::from(length);
        offset += match next {
            HOP_BY_HOP | ROUTING | OPTIONS => 8 * (length + 1),
            AUTHENTICATION => 4 * (length + 2),
            // The first one, or a whole packet.
            FRAGMENT if high == 0 && low & 0xf8 == 0 => 8,
            _ => return NOWHERE,
        };
        next = following;
    }
    NOWHERE
}

/// Words of the packet, from the IP header on.
#[inline(always)]
pub(crate) fn load<const WORDS: usize>(
    ctx: &SkReuseportContext,
    offset: u32,
) -> Option<[u32; WORDS]> {
    let mut words = [0_u32; WORDS];
    // SAFETY: the helper writes at most the length that is passed, which is the array's, and
    // fails where the packet is shorter.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            words.as_mut_ptr().cast(),
            (4 * WORDS) as u32,
            BPF_HDR_START_NET,
        )
    };
    (result == 0).then_some(words)
}
