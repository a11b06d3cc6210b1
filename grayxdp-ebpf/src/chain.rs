//! IPv6 extension headers (RFC 8200 4): hop-by-hop, routing, fragment, authentication, destination options, mobility, host
//! identity, shim6 (IANA, "IPv6 Extension Header Types").

use aya_ebpf::programs::XdpContext;

use crate::{
    packet::{OFFSET_MAX, Packet},
    parse::Odd,
    stages,
};

const FRAGMENT_HEADER: u8 = 44;
const AUTHENTICATION_HEADER: u8 = 51;
const IPV6_MORE_FRAGMENTS: u16 = 0x0001_u16.to_be();
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8_u16.to_be();
/// Headers that are looked through, the fragment header included.
const EXTENSION_HEADERS_MAX: usize = 8;

/// What an IPv6 header's chain of extension headers leads to.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) protocol: u8,
    pub(crate) offset: usize,
    pub(crate) is_first_fragment: bool,
    pub(crate) is_later_fragment: bool,
    /// Of a fragment, as the wire's bytes.
    pub(crate) fragment_id: u32,
}

impl Chain {
    const FIRST: u64 = 1 << 24;
    const LATER: u64 = 1 << 25;
    const ODD_SHIFT: u32 = 26;

    /// In one register: protocol, offset, what fragment it is, why it ends badly, and the identification.
    #[inline(always)]
    pub(crate) fn to_raw(chain: Result<Self, Odd>) -> u64 {
        match chain {
            Ok(chain) => {
                let mut raw = u64::from(chain.protocol) | (chain.offset as u64 & 0xffff) << 8;
                if chain.is_first_fragment {
                    raw |= Self::FIRST;
                }
                if chain.is_later_fragment {
                    raw |= Self::LATER;
                }
                raw | u64::from(chain.fragment_id) << 32
            }
            Err(odd) => u64::from(odd as u32) << Self::ODD_SHIFT,
        }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "shifted to the bits that are wanted")]
    fn from_raw(raw: u64) -> Result<Self, Odd> {
        let odd = (raw >> Self::ODD_SHIFT) as u32 & 0x3f;
        if odd != 0 {
            return Err(Odd::from_raw(odd));
        }
        Ok(Self {
            protocol: raw as u8,
            offset: (raw >> 8) as usize & OFFSET_MAX,
            is_first_fragment: raw & Self::FIRST != 0,
            is_later_fragment: raw & Self::LATER != 0,
            fragment_id: (raw >> 32) as u32,
        })
    }
}

/// Looks through extension headers, out of line: they are rare.
#[inline(always)]
pub(crate) fn walk(context: &XdpContext, protocol: u8, offset: usize) -> Result<Chain, Odd> {
    #[expect(clippy::cast_possible_truncation, reason = "an offset of a header")]
    Chain::from_raw(stages::grayxdp_walk(context.ctx, u32::from(protocol), offset as u32))
}

/// Looks through them, one after the other. Behind a later fragment's header, nothing is looked at.
#[inline(always)]
pub(crate) fn walk_headers(packet: Packet, protocol: u8, offset: usize) -> Result<Chain, Odd> {
    let mut chain = Chain { protocol, offset, is_first_fragment: false, is_later_fragment: false, fragment_id: 0 };
    let mut headers = 0;
    while headers < EXTENSION_HEADERS_MAX {
        match chain.protocol {
            0 | 43 | 60 | 135 | 139 | 140 => {
                let header = packet.window::<8>(chain.offset).ok_or(Odd::IpHeader)?;
                chain.protocol = header.u8::<0>();
                chain.offset += (usize::from(header.u8::<1>()) + 1) * 8;
            }
            AUTHENTICATION_HEADER => {
                let header = packet.window::<8>(chain.offset).ok_or(Odd::IpHeader)?;
                chain.protocol = header.u8::<0>();
                chain.offset += (usize::from(header.u8::<1>()) + 2) * 4;
            }
            FRAGMENT_HEADER => {
                let header = packet.window::<8>(chain.offset).ok_or(Odd::IpHeader)?;
                let fragment = header.u16::<2>();
                chain.protocol = header.u8::<0>();
                chain.offset += 8;
                chain.fragment_id = header.u32::<4>();
                if fragment & IPV6_FRAGMENT_OFFSET != 0 {
                    chain.is_later_fragment = true;
                    return Ok(chain);
                }
                // Neither an offset nor more fragments: an atomic fragment, a packet like any other (RFC 6946).
                chain.is_first_fragment = fragment & IPV6_MORE_FRAGMENTS != 0;
            }
            _ => return Ok(chain),
        }
        if chain.offset > OFFSET_MAX {
            return Err(Odd::HeaderChain);
        }
        chain.offset = packet.opaque_offset(chain.offset);
        headers += 1;
    }
    if is_extension(chain.protocol) { Err(Odd::HeaderChain) } else { Ok(chain) }
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 60 | 135 | 139 | 140 | AUTHENTICATION_HEADER | FRAGMENT_HEADER)
}
