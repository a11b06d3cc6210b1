//! Bytes to a [`Parsed`] packet: Ethernet with up to two VLAN tags (IEEE 802.1Q, 802.1ad), IPv4 (RFC 791) or IPv6
//! (RFC 8200) with options and extension headers, TCP (RFC 9293) or UDP (RFC 768). No maps.
//!
//! Whatever is none of this, or is not right, is [`Odd`]; what becomes of it is for `odd.rs`. Offsets are bytes.

use aya_ebpf::programs::XdpContext;
use grayxdp_common::{
    ids::Be16,
    layout::{Address, Endpoint},
};

use crate::{
    chain,
    packet::{Packet, Window},
};

pub(crate) const ETHERNET_LEN: usize = 14;
pub(crate) const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
pub(crate) const TCP_LEN: usize = 20;
pub(crate) const UDP_LEN: usize = 8;
const VLAN_TAG_LEN: usize = 4;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8_u16.to_be();
const IPV4_DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const IPV4_MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

pub(crate) const TCP_FIN: u8 = 0x01;
pub(crate) const TCP_SYN: u8 = 0x02;
pub(crate) const TCP_RST: u8 = 0x04;
pub(crate) const TCP_ACK: u8 = 0x10;

/// Where an IP header is, and of which family.
#[derive(Clone, Copy)]
pub(crate) struct IpHeader {
    pub(crate) offset: usize,
    pub(crate) is_v4: bool,
}

impl IpHeader {
    /// The header, in the packet as it is.
    ///
    /// VERIFIER: asked for where it is used, and not kept: the compiler would keep one pointer for both families, and the
    /// verifier forget which of them it had been checked for.
    #[inline(always)]
    pub(crate) fn network(self, packet: Packet) -> Option<Network> {
        if self.is_v4 {
            packet.window(self.offset).map(Network::V4)
        } else {
            packet.window(self.offset).map(Network::V6)
        }
    }
}

/// The IP header, options and extension headers left out.
#[derive(Clone, Copy)]
pub(crate) enum Network {
    V4(Window<IPV4_LEN>),
    V6(Window<IPV6_LEN>),
}

/// The transport header, TCP's options left out.
#[derive(Clone, Copy)]
pub(crate) enum Transport {
    Tcp(Window<TCP_LEN>),
    Udp(Window<UDP_LEN>),
}

/// What a packet means for its flow.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Step {
    /// The first packet of a TCP connection.
    Syn,
    /// A TCP packet of a connection that must exist already.
    #[default]
    Segment,
    /// The end of a TCP connection that may exist no more.
    Reset,
    /// A UDP datagram.
    Datagram,
}

/// Why a packet is no [`Parsed`] one.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Odd {
    /// Neither IPv4 nor IPv6, or too short to say.
    NotIp = 1,
    /// An IP header that is impossible, or a packet that ends before it says.
    IpHeader = 2,
    /// A TCP or UDP header that is impossible or cut off.
    TransportHeader = 3,
    /// Too many extension headers.
    HeaderChain = 4,
    /// A fragment other than the first.
    LaterFragment = 5,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp = 6,
    /// Another protocol.
    OtherProtocol = 7,
}

impl Odd {
    /// From its number.
    #[inline(always)]
    pub(crate) fn from_raw(raw: u32) -> Self {
        match raw {
            2 => Self::IpHeader,
            3 => Self::TransportHeader,
            4 => Self::HeaderChain,
            5 => Self::LaterFragment,
            6 => Self::Icmp,
            7 => Self::OtherProtocol,
            _ => Self::NotIp,
        }
    }
}

/// A whole TCP or UDP packet, or the first fragment of one.
///
/// VERIFIER: offsets, no pointers into the packet. The compiler keeps it in memory, where it would store pointers in halves,
/// and functions that are not inlined take it by reference.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Parsed {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    /// Where the IP header begins.
    pub(crate) ip_offset: u32,
    /// Where the transport header begins.
    pub(crate) l4_offset: u32,
    /// From the IP header on, without Ethernet padding.
    pub(crate) ip_len: u16,
    /// Behind the transport header.
    pub(crate) payload_len: u16,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// DSCP and ECN (RFC 2474, RFC 3168).
    pub(crate) traffic_class: u8,
    /// Of a TCP packet.
    pub(crate) tcp_flags: u8,
    pub(crate) step: Step,
    pub(crate) is_v4: bool,
    /// Whether other fragments follow.
    pub(crate) is_first_fragment: bool,
    /// Whether routers may not fragment it.
    pub(crate) must_stay_whole: bool,
    /// Zero: older kernels want every byte of what a function is given to be set.
    pub(crate) reserved: u8,
}

/// Where the IP header begins, and the Ethernet type that leads to it.
#[inline(always)]
pub(crate) fn ip_offset(packet: Packet) -> Option<(usize, u16)> {
    let mut ethertype = packet.window::<ETHERNET_LEN>(0)?.u16::<12>();
    if !is_tag(ethertype) {
        return Some((ETHERNET_LEN, ethertype));
    }
    let mut offset = ETHERNET_LEN + VLAN_TAG_LEN;
    ethertype = packet.window::<VLAN_TAG_LEN>(14)?.u16::<2>();
    if is_tag(ethertype) {
        offset += VLAN_TAG_LEN;
        ethertype = packet.window::<VLAN_TAG_LEN>(18)?.u16::<2>();
    }
    Some((packet.opaque_offset(offset), ethertype))
}

/// Whether there is a VLAN tag in front of the IP header.
#[inline(always)]
pub(crate) fn is_tagged(packet: Packet) -> bool {
    packet.window::<ETHERNET_LEN>(0).is_some_and(|ethernet| is_tag(ethernet.u16::<12>()))
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// Parses a packet, or says what is odd about it.
///
/// Written in place: a result that holds it would take the stack twice.
#[inline(always)]
pub(crate) fn parse(context: &XdpContext, parsed: &mut Parsed) -> Result<(), Odd> {
    let packet = Packet::new(context);
    let (offset, ethertype) = ip_offset(packet).ok_or(Odd::NotIp)?;
    match ethertype {
        ETHERTYPE_IPV4 => parse_v4(packet, offset, parsed),
        ETHERTYPE_IPV6 => parse_v6(context, offset, parsed),
        _ => Err(Odd::NotIp),
    }
}

#[inline(always)]
fn parse_v4(packet: Packet, ip_offset: usize, parsed: &mut Parsed) -> Result<(), Odd> {
    let header = packet.window::<IPV4_LEN>(ip_offset).ok_or(Odd::NotIp)?;
    let header_len = v4_header_len(packet, header, ip_offset).ok_or(Odd::IpHeader)?;
    let fragment = header.u16::<6>();
    if fragment & IPV4_FRAGMENT_OFFSET != 0 {
        return Err(Odd::LaterFragment);
    }
    let ip_len = u16::from_be(header.u16::<2>());
    let l4 = L4 {
        protocol: header.u8::<9>(),
        offset: ip_offset + header_len,
        len: usize::from(ip_len).saturating_sub(header_len),
        is_first_fragment: fragment & IPV4_MORE_FRAGMENTS != 0,
    };
    if l4.protocol == PROTOCOL_ICMP {
        return Err(Odd::Icmp);
    }
    let transport = parse_transport(packet, &l4)?;
    let source = Address::from_v4_wire(header.u32::<12>());
    let destination = Address::from_v4_wire(header.u32::<16>());
    let ip = Ip { network: Network::V4(header), addresses: [source, destination], hop_limit: header.u8::<8>(), ip_len };
    assemble(&ip, transport, ip_offset, &l4, parsed);
    Ok(())
}

/// Bytes of an IPv4 header; `None` where it or the packet's length is impossible.
#[inline(always)]
pub(crate) fn v4_header_len(packet: Packet, header: Window<IPV4_LEN>, ip_offset: usize) -> Option<usize> {
    let version_ihl = header.u8::<0>();
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    let ip_len = usize::from(u16::from_be(header.u16::<2>()));
    let is_right =
        version_ihl >> 4 == 4 && header_len >= IPV4_LEN && ip_len >= header_len && ip_offset + ip_len <= packet.len();
    is_right.then_some(header_len)
}

#[inline(always)]
fn parse_v6(context: &XdpContext, ip_offset: usize, parsed: &mut Parsed) -> Result<(), Odd> {
    let packet = Packet::new(context);
    let header = packet.window::<IPV6_LEN>(ip_offset).ok_or(Odd::NotIp)?;
    let payload_len = usize::from(u16::from_be(header.u16::<4>()));
    if header.u8::<0>() >> 4 != 6 || ip_offset + IPV6_LEN + payload_len > packet.len() {
        return Err(Odd::IpHeader);
    }
    let mut l4 =
        L4 { protocol: header.u8::<6>(), offset: ip_offset + IPV6_LEN, len: payload_len, is_first_fragment: false };
    if l4.protocol != PROTOCOL_TCP && l4.protocol != PROTOCOL_UDP {
        let chain = chain::walk(context, l4.protocol, l4.offset)?;
        if chain.is_later_fragment {
            return Err(Odd::LaterFragment);
        }
        l4.protocol = chain.protocol;
        let headers_len = chain.offset.checked_sub(l4.offset).ok_or(Odd::IpHeader)?;
        l4.len = payload_len.checked_sub(headers_len).ok_or(Odd::IpHeader)?;
        l4.offset = chain.offset;
        l4.is_first_fragment = chain.is_first_fragment;
        if l4.protocol == PROTOCOL_ICMPV6 {
            return Err(Odd::Icmp);
        }
    }
    let transport = parse_transport(packet, &l4)?;
    let addresses = v6_addresses(header);
    // An IPv4-mapped address has no place on the wire, and must not be taken for the IPv4 address that it maps.
    if addresses[0].is_v4() || addresses[1].is_v4() {
        return Err(Odd::OtherProtocol);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the packet is far shorter than 2^16 - 40 bytes")]
    let ip_len = (IPV6_LEN + payload_len) as u16;
    let ip = Ip { network: Network::V6(header), addresses, hop_limit: header.u8::<7>(), ip_len };
    assemble(&ip, transport, ip_offset, &l4, parsed);
    Ok(())
}

/// Source and destination.
#[inline(always)]
pub(crate) fn v6_addresses(header: Window<IPV6_LEN>) -> [Address; 2] {
    [
        Address::from_v6_wire([header.u32::<8>(), header.u32::<12>(), header.u32::<16>(), header.u32::<20>()]),
        Address::from_v6_wire([header.u32::<24>(), header.u32::<28>(), header.u32::<32>(), header.u32::<36>()]),
    ]
}

/// Where the transport header lies, and what the network header says of it.
struct L4 {
    protocol: u8,
    offset: usize,
    len: usize,
    is_first_fragment: bool,
}

#[inline(always)]
fn parse_transport(packet: Packet, l4: &L4) -> Result<Transport, Odd> {
    match l4.protocol {
        PROTOCOL_TCP => {
            let header = packet.window::<TCP_LEN>(l4.offset).ok_or(Odd::TransportHeader)?;
            let header_len = usize::from(header.u8::<12>() >> 4) * 4;
            if header_len < TCP_LEN || header_len > l4.len {
                return Err(Odd::TransportHeader);
            }
            Ok(Transport::Tcp(header))
        }
        PROTOCOL_UDP => {
            let header = packet.window::<UDP_LEN>(l4.offset).ok_or(Odd::TransportHeader)?;
            let datagram_len = usize::from(u16::from_be(header.u16::<4>()));
            let ends_within = datagram_len <= l4.len || l4.is_first_fragment;
            if l4.len < UDP_LEN || datagram_len < UDP_LEN || !ends_within {
                return Err(Odd::TransportHeader);
            }
            Ok(Transport::Udp(header))
        }
        _ => Err(Odd::OtherProtocol),
    }
}

struct Ip {
    network: Network,
    addresses: [Address; 2],
    hop_limit: u8,
    ip_len: u16,
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "offsets of headers")]
fn assemble(ip: &Ip, transport: Transport, ip_offset: usize, l4: &L4, parsed: &mut Parsed) {
    let (protocol, ports, tcp_flags, payload_len) = match transport {
        Transport::Tcp(header) => {
            let header_len = usize::from(header.u8::<12>() >> 4) * 4;
            (PROTOCOL_TCP, header.prefix::<4>(), header.u8::<13>(), l4.len.wrapping_sub(header_len))
        }
        Transport::Udp(header) => {
            let datagram_len = usize::from(u16::from_be(header.u16::<4>()));
            let whole_len = if datagram_len < l4.len { datagram_len } else { l4.len };
            (PROTOCOL_UDP, header.prefix::<4>(), 0, whole_len.wrapping_sub(UDP_LEN))
        }
    };
    let [source, destination] = ip.addresses;
    let (is_v4, must_stay_whole) = match ip.network {
        Network::V4(header) => (true, header.u16::<6>() & IPV4_DONT_FRAGMENT != 0),
        Network::V6(_) => (false, true),
    };
    *parsed = Parsed {
        source: Endpoint::new(source, Be16::from_wire(ports.u16::<0>()), protocol),
        destination: Endpoint::new(destination, Be16::from_wire(ports.u16::<2>()), protocol),
        ip_offset: ip_offset as u32,
        l4_offset: l4.offset as u32,
        ip_len: ip.ip_len,
        payload_len: payload_len as u16,
        hop_limit: ip.hop_limit,
        traffic_class: traffic_class(ip.network),
        tcp_flags,
        step: if protocol == PROTOCOL_UDP { Step::Datagram } else { tcp_step(tcp_flags) },
        is_v4,
        is_first_fragment: l4.is_first_fragment,
        must_stay_whole,
        reserved: 0,
    };
}

/// What TCP flags mean for the flow.
#[inline(always)]
pub(crate) fn tcp_step(flags: u8) -> Step {
    if flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) == TCP_SYN {
        Step::Syn
    } else if flags & TCP_RST != 0 {
        Step::Reset
    } else {
        Step::Segment
    }
}

/// TCP flags that no connection has: none at all, SYN with FIN or RST, FIN without ACK.
#[inline(always)]
pub(crate) fn are_impossible(tcp_flags: u8) -> bool {
    let flags = tcp_flags & 0x3f;
    flags == 0
        || (flags & TCP_SYN != 0 && flags & (TCP_FIN | TCP_RST) != 0)
        || flags & (TCP_FIN | TCP_ACK | TCP_RST) == TCP_FIN
}

/// DSCP and ECN of an IP header.
#[inline(always)]
pub(crate) fn traffic_class(network: Network) -> u8 {
    match network {
        Network::V4(header) => header.u8::<1>(),
        #[expect(clippy::cast_possible_truncation, reason = "the 8 bits behind the version")]
        Network::V6(header) => (u16::from_be(header.u16::<0>()) >> 4) as u8,
    }
}

impl Parsed {
    /// The differentiated services code point: 0 to 63.
    #[inline(always)]
    pub(crate) fn dscp(&self) -> u8 {
        self.traffic_class >> 2
    }

    /// Whether it is a UDP datagram.
    #[inline(always)]
    pub(crate) fn is_udp(&self) -> bool {
        self.destination.protocol == PROTOCOL_UDP
    }

    /// Where its IP header is.
    #[inline(always)]
    pub(crate) fn ip(&self) -> IpHeader {
        IpHeader { offset: self.ip_offset as usize, is_v4: self.is_v4 }
    }

    /// Whether it carries something for the application; a datagram does, empty or not.
    #[inline(always)]
    pub(crate) fn carries_payload(&self) -> bool {
        self.is_udp() || self.payload_len != 0
    }

    /// Its transport header, in the packet as it is.
    #[inline(always)]
    pub(crate) fn transport(&self, packet: Packet) -> Option<Transport> {
        if self.is_udp() {
            packet.window(self.l4_offset as usize).map(Transport::Udp)
        } else {
            packet.window(self.l4_offset as usize).map(Transport::Tcp)
        }
    }
}
