//! Reads packets: Ethernet with up to two VLAN tags, IPv4 and IPv6 with what may follow them. Byte by byte, every access
//! checked; nothing is read twice in two ways.

use std::net::IpAddr;

use grayxdp_common::verdict::Verdict;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMP_V6: u8 = 58;
/// Extension headers that are looked through.
const EXTENSION_HEADERS_MAX: usize = 8;
/// Headers behind this offset are not looked at.
const OFFSET_MAX: usize = 2047;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// An address, a port and the protocol that it is a port of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: u8,
}

/// Whether a packet is part of a datagram only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Whole,
    First,
    Later,
}

/// An IP header, and where things lie in its packet.
#[derive(Clone, Debug)]
pub(super) struct Ip {
    /// Where it begins.
    pub(super) at: usize,
    /// Options included; extension headers left out.
    pub(super) header_len: usize,
    /// Where the IP packet ends.
    pub(super) end: usize,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Behind extension headers.
    pub(super) protocol: u8,
    /// As the IP header itself has it.
    pub(super) first_protocol: u8,
    /// Where what `protocol` says begins.
    pub(super) payload: usize,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) part: Part,
    /// Of the datagram.
    pub(super) id: u32,
    pub(super) may_be_fragmented: bool,
}

/// What a packet turns out to be.
pub(super) enum Reading {
    /// TCP or UDP.
    Flow(Ip, Segment),
    /// ICMP or ICMPv6.
    Message(Ip),
    /// A fragment without a transport header.
    Later(Ip),
    /// None of these, and passed for this reason.
    Other(Verdict),
    /// Impossible: dropped for the first reason where it is for `whom`, else passed for the second one.
    Malformed(Whom, Verdict, Verdict),
}

/// Whom a malformed packet is for, as far as it can be read.
pub(super) enum Whom {
    Nobody,
    /// Any service of this address.
    Vip(IpAddr),
    Service(Endpoint),
}

/// A TCP or UDP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    /// Of TCP; zero for UDP.
    pub(super) flags: u8,
    /// Bytes of TCP's header.
    pub(super) header_len: usize,
}

impl Segment {
    pub(super) fn is_udp(&self) -> bool {
        self.source.protocol == UDP
    }

    /// Whether it begins a flow.
    pub(super) fn begins(&self) -> bool {
        self.is_udp() || self.is_syn()
    }

    pub(super) fn is_syn(&self) -> bool {
        !self.is_udp() && self.flags & (SYN | ACK | FIN | RST) == SYN
    }

    pub(super) fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }
}

impl Ip {
    pub(super) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// From its first byte to its last.
    pub(super) fn len(&self) -> usize {
        self.end - self.at
    }
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An address of either family.
pub(super) fn address_at(bytes: &[u8], at: usize, is_v4: bool) -> Option<IpAddr> {
    if is_v4 {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        return Some(octets.into());
    }
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// Where the IP header begins, and the Ethernet type in front of it.
pub(super) fn link(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    for _ in 0..2 {
        match u16_at(frame, at)? {
            0x8100 | 0x88a8 => at += 4,
            _ => break,
        }
    }
    Some((at + 2, u16_at(frame, at)?))
}

/// An IPv4-mapped address has no place on the wire.
pub(super) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

pub(super) fn read(frame: &[u8]) -> Reading {
    let not_ip = Reading::Other(Verdict::PassedNotIp);
    match link(frame) {
        Some((at, 0x0800)) => read_v4(frame, at).unwrap_or(not_ip),
        Some((at, 0x86dd)) => read_v6(frame, at).unwrap_or(not_ip),
        _ => not_ip,
    }
}

/// `None` where there is no whole header.
fn read_v4(frame: &[u8], at: usize) -> Option<Reading> {
    let header = frame.get(at..at + 20)?;
    let first = u8_at(header, 0)?;
    let (header_len, len) = (usize::from(first & 15) * 4, usize::from(u16_at(header, 2)?));
    let destination = address_at(header, 16, true)?;
    if first >> 4 != 4 || header_len < 20 || len < header_len || at + len > frame.len() {
        let whom = Whom::Vip(destination);
        return Some(Reading::Malformed(whom, Verdict::DroppedIpHeader, Verdict::PassedMalformed));
    }
    let fragment = u16_at(header, 6)?;
    let protocol = u8_at(header, 9)?;
    let ip = Ip {
        at,
        header_len,
        end: at + len,
        source: address_at(header, 12, true)?,
        destination,
        protocol,
        first_protocol: protocol,
        payload: at + header_len,
        hop_limit: u8_at(header, 8)?,
        traffic_class: u8_at(header, 1)?,
        part: match (fragment & 0x1fff, fragment & 0x2000) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First,
            _ => Part::Later,
        },
        id: u16_at(header, 4)?.into(),
        may_be_fragmented: fragment & 0x4000 == 0,
    };
    Some(match (ip.part, protocol) {
        (Part::Later, _) => Reading::Later(ip),
        (_, ICMP) => Reading::Message(ip),
        _ => transport(frame, ip),
    })
}

fn read_v6(frame: &[u8], at: usize) -> Option<Reading> {
    let header = frame.get(at..at + 40)?;
    let (source, destination) = (address_at(header, 8, false)?, address_at(header, 24, false)?);
    let whom = || if is_mapped(destination) { Whom::Nobody } else { Whom::Vip(destination) };
    let malformed = || Reading::Malformed(whom(), Verdict::DroppedIpHeader, Verdict::PassedMalformed);
    let end = at + 40 + usize::from(u16_at(header, 4)?);
    let words = u16_at(header, 0)?;
    if words >> 12 != 6 || end > frame.len() {
        return Some(malformed());
    }
    let first_protocol = u8_at(header, 6)?;
    let mut ip = Ip {
        at,
        header_len: 40,
        end,
        source,
        destination,
        protocol: first_protocol,
        first_protocol,
        payload: at + 40,
        hop_limit: u8_at(header, 7)?,
        traffic_class: (words >> 4).to_be_bytes()[1],
        part: Part::Whole,
        id: 0,
        may_be_fragmented: false,
    };
    let mut headers = 0;
    while matches!(ip.protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
        headers += 1;
        if headers > EXTENSION_HEADERS_MAX {
            let (dropped, passed) = (Verdict::DroppedHeaderChain, Verdict::PassedExtensionHeader);
            return Some(Reading::Malformed(whom(), dropped, passed));
        }
        let Some(header) = frame.get(ip.payload..ip.payload + 8) else { return Some(malformed()) };
        let length = usize::from(u8_at(header, 1)?);
        match ip.protocol {
            44 => {
                let fragment = u16_at(header, 2)?;
                ip.id = u32_at(header, 4)?;
                ip.part = match (fragment & 0xfff8, fragment & 1) {
                    (0, 0) => Part::Whole,
                    (0, _) => Part::First,
                    _ => Part::Later,
                };
                ip.payload += 8;
            }
            51 => ip.payload += (length + 2) * 4,
            _ => ip.payload += (length + 1) * 8,
        }
        ip.protocol = u8_at(header, 0)?;
        if ip.part == Part::Later {
            return Some(Reading::Later(ip));
        }
        if ip.payload > OFFSET_MAX {
            let (dropped, passed) = (Verdict::DroppedHeaderChain, Verdict::PassedExtensionHeader);
            return Some(Reading::Malformed(whom(), dropped, passed));
        }
    }
    if ip.payload > ip.end {
        return Some(malformed());
    }
    Some(if ip.protocol == ICMP_V6 { Reading::Message(ip) } else { transport(frame, ip) })
}

fn transport(frame: &[u8], ip: Ip) -> Reading {
    if ip.protocol != TCP && ip.protocol != UDP {
        return Reading::Other(Verdict::PassedOtherProtocol);
    }
    let Some(segment) = segment(frame, &ip) else {
        return Reading::Malformed(whom(frame, &ip), Verdict::DroppedTransportHeader, Verdict::PassedMalformed);
    };
    if is_mapped(ip.source) || is_mapped(ip.destination) {
        return Reading::Other(Verdict::PassedOtherProtocol);
    }
    Reading::Flow(ip, segment)
}

/// Whom a packet is for whose transport header is impossible. Behind the end of the IP packet the frame may go on, with
/// padding; ports there are as good as any, for the packet is dropped or passed as it is.
fn whom(frame: &[u8], ip: &Ip) -> Whom {
    if is_mapped(ip.destination) {
        return Whom::Nobody;
    }
    match u16_at(frame, ip.payload + 2) {
        Some(port) => Whom::Service(Endpoint { address: ip.destination, port, protocol: ip.protocol }),
        None => Whom::Vip(ip.destination),
    }
}

fn segment(frame: &[u8], ip: &Ip) -> Option<Segment> {
    let header = frame.get(ip.payload..ip.end)?;
    let end = |address, port| Endpoint { address, port, protocol: ip.protocol };
    let (source, destination) = (end(ip.source, u16_at(header, 0)?), end(ip.destination, u16_at(header, 2)?));
    if ip.protocol == TCP {
        let header_len = usize::from(u8_at(header, 12)? >> 4) * 4;
        let is_right = header_len >= 20 && header_len <= header.len();
        return is_right.then_some(Segment { source, destination, flags: u8_at(header, 13)?, header_len });
    }
    let len = usize::from(u16_at(header, 4)?);
    let is_right = header.len() >= 8 && len >= 8 && (len <= header.len() || ip.part == Part::First);
    is_right.then_some(Segment { source, destination, flags: 0, header_len: 8 })
}

/// TCP flags that no connection has: none at all, SYN with FIN or RST, FIN without ACK.
pub(super) fn are_impossible(flags: u8) -> bool {
    let has = |flag| flags & flag != 0;
    flags & 0x3f == 0 || (has(SYN) && (has(FIN) || has(RST))) || (has(FIN) && !has(ACK) && !has(RST))
}

/// Addresses that no packet on a wire comes from (RFC 6890).
pub(super) fn is_martian(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => matches!(v4.octets(), [0 | 127 | 224..=255, ..]),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_multicast(),
    }
}
