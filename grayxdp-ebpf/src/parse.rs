//! Bytes to a [`Parsed`] packet: Ethernet, IPv4 (RFC 791) or IPv6 (RFC 8200), TCP (RFC 9293) or UDP (RFC 768). No maps.
//!
//! What cannot be parsed is passed untouched, with the reason. Offsets are bytes from the Ethernet header.

use grayxdp_common::{
    ids::Be16,
    layout::{Address, Endpoint},
    verdict::Verdict,
};

use crate::packet::{Packet, Window};

pub(crate) const ETHERNET_LEN: usize = 14;
const IPV4_LEN_MIN: usize = 20;
const IPV6_LEN: usize = 40;
pub(crate) const TCP_LEN_MIN: usize = 20;
pub(crate) const UDP_LEN: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// More fragments, or a fragment offset.
const IPV4_FRAGMENT_MASK: u16 = 0x3fff_u16.to_be();

pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
/// IPv6 next headers that lead on to another header: hop-by-hop, routing, authentication, destination options, mobility,
/// host identity, shim6 (IANA, "IPv6 Extension Header Types").
const EXTENSION_HEADERS: [u8; 7] = [0, 43, 51, 60, 135, 139, 140];
const FRAGMENT_HEADER: u8 = 44;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// The network header.
#[derive(Clone, Copy)]
pub(crate) enum Network {
    /// Ethernet and IPv4, without options.
    V4(Window<{ ETHERNET_LEN + IPV4_LEN_MIN }>),
    /// Ethernet and IPv6.
    V6(Window<{ ETHERNET_LEN + IPV6_LEN }>),
}

/// The transport header.
#[derive(Clone, Copy)]
pub(crate) enum Transport {
    Tcp(Window<TCP_LEN_MIN>),
    Udp(Window<UDP_LEN>),
}

/// What a packet means for its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The first packet of a TCP connection.
    Syn,
    /// A TCP packet of a connection that must exist already.
    Segment,
    /// The end of a TCP connection that may exist no more.
    Reset,
    /// A UDP datagram.
    Datagram,
}

/// A packet that may concern a service.
#[derive(Clone, Copy)]
pub(crate) struct Parsed {
    pub(crate) network: Network,
    pub(crate) transport: Transport,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) step: Step,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// Bytes from the IP header on, without Ethernet padding.
    pub(crate) ip_len: u16,
}

/// Parses a packet, or says why it is passed.
#[inline(always)]
pub(crate) fn parse(packet: Packet) -> Result<Parsed, Verdict> {
    let ethernet = packet.window::<ETHERNET_LEN>(0).ok_or(Verdict::PassedMalformed)?;
    match ethernet.u16::<12>() {
        ETHERTYPE_IPV4 => parse_v4(packet),
        ETHERTYPE_IPV6 => parse_v6(packet),
        _ => Err(Verdict::PassedNotIp),
    }
}

#[inline(always)]
fn parse_v4(packet: Packet) -> Result<Parsed, Verdict> {
    let header = packet.window::<{ ETHERNET_LEN + IPV4_LEN_MIN }>(0).ok_or(Verdict::PassedMalformed)?;
    let version_ihl = header.u8::<14>();
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    let ip_len = u16::from_be(header.u16::<16>());
    if version_ihl >> 4 != 4 || header_len < IPV4_LEN_MIN || ETHERNET_LEN + usize::from(ip_len) > packet.len() {
        return Err(Verdict::PassedMalformed);
    }
    if header.u16::<20>() & IPV4_FRAGMENT_MASK != 0 {
        return Err(Verdict::PassedFragment);
    }
    let l4 = L4 {
        protocol: header.u8::<23>(),
        offset: ETHERNET_LEN + header_len,
        len: usize::from(ip_len).saturating_sub(header_len),
    };
    let transport = parse_transport(packet, l4)?;
    let source = Address::from_v4_wire(header.u32::<26>());
    let destination = Address::from_v4_wire(header.u32::<30>());
    Ok(assemble(Network::V4(header), transport, [source, destination], header.u8::<22>(), ip_len))
}

#[inline(always)]
fn parse_v6(packet: Packet) -> Result<Parsed, Verdict> {
    let header = packet.window::<{ ETHERNET_LEN + IPV6_LEN }>(0).ok_or(Verdict::PassedMalformed)?;
    let payload_len = u16::from_be(header.u16::<18>());
    if header.u8::<14>() >> 4 != 6 || ETHERNET_LEN + IPV6_LEN + usize::from(payload_len) > packet.len() {
        return Err(Verdict::PassedMalformed);
    }
    let l4 = L4 { protocol: header.u8::<20>(), offset: ETHERNET_LEN + IPV6_LEN, len: usize::from(payload_len) };
    let transport = parse_transport(packet, l4)?;
    let source = [header.u32::<22>(), header.u32::<26>(), header.u32::<30>(), header.u32::<34>()];
    let destination = [header.u32::<38>(), header.u32::<42>(), header.u32::<46>(), header.u32::<50>()];
    let addresses = [Address::from_v6_wire(source), Address::from_v6_wire(destination)];
    // A payload that fills the packet is shorter than 2^16 - 40 bytes.
    Ok(assemble(Network::V6(header), transport, addresses, header.u8::<21>(), payload_len.wrapping_add(40)))
}

/// Where the transport header lies, and what the network header says of it.
struct L4 {
    protocol: u8,
    offset: usize,
    len: usize,
}

#[inline(always)]
fn parse_transport(packet: Packet, l4: L4) -> Result<Transport, Verdict> {
    match l4.protocol {
        PROTOCOL_TCP if l4.len >= TCP_LEN_MIN => {
            let header = packet.window::<TCP_LEN_MIN>(l4.offset).ok_or(Verdict::PassedMalformed)?;
            let header_len = usize::from(header.u8::<12>() >> 4) * 4;
            if header_len < TCP_LEN_MIN || header_len > l4.len {
                return Err(Verdict::PassedMalformed);
            }
            Ok(Transport::Tcp(header))
        }
        PROTOCOL_UDP if l4.len >= UDP_LEN => {
            packet.window::<UDP_LEN>(l4.offset).map(Transport::Udp).ok_or(Verdict::PassedMalformed)
        }
        PROTOCOL_TCP | PROTOCOL_UDP => Err(Verdict::PassedMalformed),
        FRAGMENT_HEADER => Err(Verdict::PassedFragment),
        other if EXTENSION_HEADERS.contains(&other) => Err(Verdict::PassedExtensionHeader),
        _ => Err(Verdict::PassedOtherProtocol),
    }
}

#[inline(always)]
fn assemble(network: Network, transport: Transport, addresses: [Address; 2], hop_limit: u8, ip_len: u16) -> Parsed {
    let (protocol, ports, step) = match transport {
        Transport::Tcp(header) => (PROTOCOL_TCP, header.prefix::<4>(), tcp_step(header.u8::<13>())),
        Transport::Udp(header) => (PROTOCOL_UDP, header.prefix::<4>(), Step::Datagram),
    };
    let [source, destination] = addresses;
    Parsed {
        network,
        transport,
        source: Endpoint::new(source, Be16::from_wire(ports.u16::<0>()), protocol),
        destination: Endpoint::new(destination, Be16::from_wire(ports.u16::<2>()), protocol),
        step,
        hop_limit,
        ip_len,
    }
}

#[inline(always)]
fn tcp_step(flags: u8) -> Step {
    if flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) == TCP_SYN {
        Step::Syn
    } else if flags & TCP_RST != 0 {
        Step::Reset
    } else {
        Step::Segment
    }
}
