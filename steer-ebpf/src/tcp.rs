//! Which segments select a listener, and where in the packet the TCP header is.
//!
//! When TCP itself looks a listener up, the packet's data begin with the TCP header. nftables and
//! iptables look a listener up earlier (TPROXY, and expressions on the socket that a packet is
//! for). Then the packet's data begin with the IP header.

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

/// Words of the TCP header that are read: those up to and including the flags.
const WORDS: usize = 4;
/// Bytes of [`WORDS`].
const BYTES: usize = 4 * WORDS;

/// Length of the IPv4 header without options in words, and of the IPv6 header in bytes.
const IPV4: usize = 5;
const IPV6: u32 = 40;

/// How many headers may come between the IPv6 header and the TCP header.
const EXTENSIONS: u32 = 8;

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

/// What a segment is for which a listener is looked up.
#[derive(Clone, Copy)]
pub(crate) enum Segment {
    /// The segment begins a connection, or may do so.
    Selects(Arrival),
    /// The segment is stray and begins no connection: no cursor moves for it.
    Stray,
}

/// A segment for which a listener is looked up.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) segment: Segment,
    /// Whether the listener is looked up before TCP has the packet.
    pub(crate) early: bool,
    /// The first two words of the TCP header: the ports, and the sequence number.
    pub(crate) names: [u32; 2],
}

/// Finds the TCP header and reads what this program goes by.
#[inline(always)]
pub(crate) fn look(ctx: &SkReuseportContext) -> Result<Packet, Hashed> {
    let start = ctx.data();
    if start + BYTES > ctx.data_end() {
        return Err(Hashed::Malformed);
    }
    // SAFETY: the words lie within the packet's bounds, which were just checked. The read is
    // unaligned as far as the compiler knows; the kernel aligns headers or allows such reads, so
    // no helper is needed.
    let mut words = unsafe { (start as *const [u32; WORDS]).read_unaligned() };
    let mut early = false;
    if may_be_ip(ctx, words) {
        let md: *mut sk_reuseport_md = ctx.as_ptr().cast();
        // SAFETY: `md` is the context that the kernel called the program with.
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

/// Whether these may be the first words of an IP header: does the length in them fit the packet's?
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

/// [`offset_of_tcp`] returns this if the data begin with the TCP header. A TCP header can look
/// like an IP header to [`may_be_ip`]. Then the real IP header lies before the data, and tells
/// another length.
const AT_THE_START: u32 = 0;
/// [`offset_of_tcp`] returns this if it finds no TCP header.
const NOWHERE: u32 = u32::MAX;

/// The offset of the TCP header from the IP header, in bytes, or [`AT_THE_START`] or [`NOWHERE`].
/// The verifier looks at this function once.
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

/// The offset of the TCP header in an IPv6 packet, in bytes, or [`NOWHERE`]. `first` is the kind
/// of the header that follows the IPv6 header.
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
            // The offset in this header is 0: the packet is the first fragment, or whole.
            FRAGMENT if high == 0 && low & 0xf8 == 0 => 8,
            _ => return NOWHERE,
        };
        next = following;
    }
    NOWHERE
}

/// Reads words of the packet, `offset` bytes from the IP header. None if the packet is shorter.
#[inline(always)]
pub(crate) fn load<const WORDS: usize>(
    ctx: &SkReuseportContext,
    offset: u32,
) -> Option<[u32; WORDS]> {
    let mut words = [0_u32; WORDS];
    // SAFETY: the helper writes at most the length that is passed, which is the array's. The
    // helper fails if the packet is shorter.
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
