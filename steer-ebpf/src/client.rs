//! The client's address, as far as `sticky` goes by it.

use aya_ebpf::programs::SkReuseportContext;
use steer_common::{config::GroupConfig, policy::mix::mix};

use crate::tcp::load;

const ETH_P_IP: u32 = 0x0800;
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;

/// A hash of the address's leading bits. If the address can't be read, all clients have the same
/// hash.
#[inline(always)]
pub(crate) fn hash(ctx: &SkReuseportContext, config: &GroupConfig) -> u32 {
    if ctx.eth_protocol() == u32::from((ETH_P_IP as u16).to_be()) {
        let address: [u32; 1] = load(ctx, SOURCE_V4).unwrap_or([0]);
        return mix(leading(address[0], config.sticky_v4), 4);
    }
    let address: [u32; 4] = load(ctx, SOURCE_V6).unwrap_or([0; 4]);
    let mut hash = 6;
    for (index, word) in (0_u32..).zip(address) {
        hash = mix(
            leading(word, config.sticky_v6.saturating_sub(32 * index)),
            hash,
        );
    }
    hash
}

/// The leading bits of a word of an address, which is in network order.
#[inline(always)]
fn leading(word: u32, bits: u32) -> u32 {
    let keep = if bits >= 32 {
        u32::MAX
    } else {
        !(u32::MAX >> bits)
    };
    u32::from_be(word) & keep
}
