//! Changes addresses, ports, hop limit, MAC addresses and checksums (incrementally, RFC 1624). No lookups.

use grayxdp_common::{csum::ChecksumDelta, layout::Endpoint};

use crate::{
    packet::{Packet, Window},
    parse::{ETHERNET_LEN, Network, Parsed, Transport},
};

/// Which end of the packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Gives one end of the packet another address and port.
#[inline(always)]
pub(crate) fn endpoint(packet: &Parsed, end: End, new: &Endpoint) {
    let old = match end {
        End::Source => &packet.source,
        End::Destination => &packet.destination,
    };
    let addresses = network_address(packet.network, end, old, new);
    let delta = addresses.half(old.port.to_wire(), new.port.to_wire());
    match packet.transport {
        Transport::Tcp(header) => {
            set_port(header.prefix(), end, new);
            header.set_u16::<16>(delta.apply(header.u16::<16>()));
        }
        Transport::Udp(header) => {
            set_port(header.prefix(), end, new);
            // Zero means "no checksum", and stays (RFC 768).
            let old_checksum = header.u16::<6>();
            if old_checksum != 0 {
                let checksum = delta.apply(old_checksum);
                header.set_u16::<6>(if checksum == 0 { u16::MAX } else { checksum });
            }
        }
    }
}

/// Returns what the transport checksum's pseudo-header changes by.
#[inline(always)]
fn network_address(network: Network, end: End, old: &Endpoint, new: &Endpoint) -> ChecksumDelta {
    match network {
        Network::V4(header) => {
            let word = new.address.v4_word();
            let delta = ChecksumDelta::ZERO.word(old.address.v4_word(), word);
            header.set_u16::<24>(delta.apply(header.u16::<24>()));
            match end {
                End::Source => header.set_u32::<26>(word),
                End::Destination => header.set_u32::<30>(word),
            }
            delta
        }
        Network::V6(header) => {
            let [a, b, c, d] = new.address.words();
            match end {
                End::Source => {
                    header.set_u32::<22>(a);
                    header.set_u32::<26>(b);
                    header.set_u32::<30>(c);
                    header.set_u32::<34>(d);
                }
                End::Destination => {
                    header.set_u32::<38>(a);
                    header.set_u32::<42>(b);
                    header.set_u32::<46>(c);
                    header.set_u32::<50>(d);
                }
            }
            let [old_a, old_b, old_c, old_d] = old.address.words();
            ChecksumDelta::ZERO.word(old_a, a).word(old_b, b).word(old_c, c).word(old_d, d)
        }
    }
}

#[inline(always)]
fn set_port(ports: Window<4>, end: End, new: &Endpoint) {
    match end {
        End::Source => ports.set_u16::<0>(new.port.to_wire()),
        End::Destination => ports.set_u16::<2>(new.port.to_wire()),
    }
}

/// One hop further: hop limit and MAC addresses. Only for packets that the program itself sends; the kernel does this for
/// those left to it.
#[inline(always)]
pub(crate) fn hop(packet: Packet, parsed: &Parsed, macs: [u16; 6]) -> Option<()> {
    match parsed.network {
        Network::V4(header) => {
            let old = header.u16::<22>();
            header.set_u8::<22>(parsed.hop_limit.wrapping_sub(1));
            header.set_u16::<24>(ChecksumDelta::ZERO.half(old, header.u16::<22>()).apply(header.u16::<24>()));
        }
        Network::V6(header) => header.set_u8::<21>(parsed.hop_limit.wrapping_sub(1)),
    }
    let ethernet = packet.window::<ETHERNET_LEN>(0)?;
    let [a, b, c, d, e, f] = macs;
    ethernet.set_u16::<0>(a);
    ethernet.set_u16::<2>(b);
    ethernet.set_u16::<4>(c);
    ethernet.set_u16::<6>(d);
    ethernet.set_u16::<8>(e);
    ethernet.set_u16::<10>(f);
    Some(())
}
