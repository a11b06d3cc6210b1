//! Changes addresses, ports, hop limit, MAC addresses and checksums (incrementally, RFC 1624). No lookups.

use grayxdp_common::{
    csum::ChecksumDelta,
    layout::{Address, Endpoint},
};

use crate::{
    packet::{Packet, Window},
    parse::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, IpHeader, Network, Parsed, TCP_LEN, Transport, UDP_LEN},
};

/// Which end of the packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Gives one end of the packet another address and port.
#[inline(always)]
pub(crate) fn endpoint(packet: Packet, parsed: &Parsed, end: End, new: &Endpoint) -> Option<()> {
    let old = match end {
        End::Source => &parsed.source,
        End::Destination => &parsed.destination,
    };
    let addresses = address(packet, parsed.ip(), end, &old.address, &new.address)?;
    let delta = addresses.half(old.port.to_wire(), new.port.to_wire());
    match parsed.transport(packet)? {
        Transport::Tcp(header) => tcp(header, end, new, delta),
        Transport::Udp(header) => udp(header, end, new, delta),
    }
    Some(())
}

/// Gives one end of a TCP packet another port; `delta` is what its checksum changes by, the port included.
#[inline(always)]
pub(crate) fn tcp(header: Window<TCP_LEN>, end: End, new: &Endpoint, delta: ChecksumDelta) {
    set_port(header.prefix(), end, new);
    header.set_u16::<16>(delta.apply(header.u16::<16>()));
}

/// The same for UDP.
#[inline(always)]
pub(crate) fn udp(header: Window<UDP_LEN>, end: End, new: &Endpoint, delta: ChecksumDelta) {
    set_port(header.prefix(), end, new);
    header.set_u16::<6>(udp_checksum(header.u16::<6>(), delta));
}

/// A UDP checksum after changes. Zero means "no checksum", and stays; a sum of zero is sent as all ones (RFC 768).
#[inline(always)]
pub(crate) fn udp_checksum(old: u16, delta: ChecksumDelta) -> u16 {
    if old == 0 {
        return 0;
    }
    let new = delta.apply(old);
    if new == 0 { u16::MAX } else { new }
}

/// Gives one end of the packet another address, IPv4's header checksum included. Returns what the transport checksum's
/// pseudo-header changes by.
#[inline(always)]
pub(crate) fn address(packet: Packet, ip: IpHeader, end: End, old: &Address, new: &Address) -> Option<ChecksumDelta> {
    Some(match ip.network(packet)? {
        Network::V4(header) => {
            let delta = ChecksumDelta::ZERO.word(old.v4_word(), new.v4_word());
            header.set_u16::<10>(delta.apply(header.u16::<10>()));
            set_v4_word(header, end, new.v4_word());
            delta
        }
        Network::V6(header) => set_v6_words(header, end, old, new),
    })
}

/// Gives one end of an IPv4 header another address, its checksum left as it is. Returns what that changes by.
#[inline(always)]
pub(crate) fn v4_word(header: Window<IPV4_LEN>, end: End, old: u32, new: &Endpoint) -> ChecksumDelta {
    let word = new.address.v4_word();
    set_v4_word(header, end, word);
    ChecksumDelta::ZERO.word(old, word)
}

#[inline(always)]
fn set_v4_word(header: Window<IPV4_LEN>, end: End, word: u32) {
    match end {
        End::Source => header.set_u32::<12>(word),
        End::Destination => header.set_u32::<16>(word),
    }
}

/// Gives one end of an IPv6 header another address. Returns what the transport checksum changes by.
#[inline(always)]
pub(crate) fn set_v6_words(header: Window<IPV6_LEN>, end: End, old: &Address, new: &Address) -> ChecksumDelta {
    let [a, b, c, d] = new.words();
    match end {
        End::Source => {
            header.set_u32::<8>(a);
            header.set_u32::<12>(b);
            header.set_u32::<16>(c);
            header.set_u32::<20>(d);
        }
        End::Destination => {
            header.set_u32::<24>(a);
            header.set_u32::<28>(b);
            header.set_u32::<32>(c);
            header.set_u32::<36>(d);
        }
    }
    let [old_a, old_b, old_c, old_d] = old.words();
    ChecksumDelta::ZERO.word(old_a, a).word(old_b, b).word(old_c, c).word(old_d, d)
}

#[inline(always)]
fn set_port(ports: Window<4>, end: End, new: &Endpoint) {
    match end {
        End::Source => ports.set_u16::<0>(new.port.to_wire()),
        End::Destination => ports.set_u16::<2>(new.port.to_wire()),
    }
}

/// One hop less to live.
#[inline(always)]
pub(crate) fn hop_limit(packet: Packet, ip: IpHeader) -> Option<()> {
    let old = match ip.network(packet)? {
        Network::V4(header) => header.u8::<8>(),
        Network::V6(header) => header.u8::<7>(),
    };
    set_hop_limit(packet, ip, old.wrapping_sub(1))
}

/// Another hop limit.
#[inline(always)]
pub(crate) fn set_hop_limit(packet: Packet, ip: IpHeader, hop_limit: u8) -> Option<()> {
    match ip.network(packet)? {
        Network::V4(header) => {
            // Stored as the word that was loaded: a load of both bytes would wait for a store of one.
            let old = header.u16::<8>();
            let new = (old & 0xff00_u16.to_le()) | u16::from(hop_limit).to_le();
            header.set_u16::<8>(new);
            header.set_u16::<10>(ChecksumDelta::ZERO.half(old, new).apply(header.u16::<10>()));
        }
        Network::V6(header) => header.set_u8::<7>(hop_limit),
    }
    Some(())
}

/// Another total length of an IPv4 packet, in bytes.
#[inline(always)]
pub(crate) fn set_v4_len(header: Window<IPV4_LEN>, len: u16) {
    let delta = ChecksumDelta::ZERO.half(header.u16::<2>(), len.to_be());
    header.set_u16::<2>(len.to_be());
    header.set_u16::<10>(delta.apply(header.u16::<10>()));
}

/// Destination and source MAC address.
#[inline(always)]
pub(crate) fn macs(packet: Packet, macs: [u16; 6]) -> Option<()> {
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

/// Back to where it came from.
#[inline(always)]
pub(crate) fn swap_macs(packet: Packet) -> Option<()> {
    let ethernet = packet.window::<ETHERNET_LEN>(0)?;
    let to = [ethernet.u16::<0>(), ethernet.u16::<2>(), ethernet.u16::<4>()];
    let [a, b, c] = [ethernet.u16::<6>(), ethernet.u16::<8>(), ethernet.u16::<10>()];
    let [d, e, f] = to;
    macs(packet, [a, b, c, d, e, f])
}
