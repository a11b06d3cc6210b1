//! IP in IP: an outer header in front (RFC 2003, RFC 2473, RFC 4213).

use std::net::IpAddr;

use super::{
    change::{octets, put},
    checksum, wire,
    wire::Ip,
    world::covers,
};
use crate::kernel::Network;

/// What the program is free to choose, taken from what it sent after a check; `None` where it chose what it may not.
struct Chosen {
    source: IpAddr,
    /// Of IPv4: the identification. Of IPv6: the flow label.
    label: u32,
}

fn chosen(seen: &[u8], at: usize, is_v4: bool, network: &Network) -> Option<Chosen> {
    let source = wire::address_at(seen, at + if is_v4 { 12 } else { 8 }, is_v4)?;
    let label = if is_v4 { wire::u16_at(seen, at + 4)?.into() } else { wire::u32_at(seen, at)? & 0xf_ffff };
    covers(network, source).then_some(Chosen { source, label })
}

/// The packet behind an outer header to `backend`, from somewhere in `network`.
pub(super) fn wrapped(frame: &[u8], ip: &Ip, backend: IpAddr, network: Network, seen: &[u8]) -> Vec<u8> {
    let is_v4 = backend.is_ipv4();
    let chosen = chosen(seen, ip.at, is_v4, &network).unwrap_or(Chosen { source: network.address, label: 0 });
    let (link, inner) = frame.split_at(ip.at);
    let mut bytes = link.to_vec();
    let ethertype: u16 = if is_v4 { 0x0800 } else { 0x86dd };
    put(&mut bytes, ip.at - 2, &ethertype.to_be_bytes());
    bytes.extend(if is_v4 { outer_v4(ip, backend, &chosen) } else { outer_v6(ip, backend, &chosen) });
    bytes.extend(inner);
    bytes
}

fn protocol(ip: &Ip) -> u8 {
    if ip.is_v4() { 4 } else { 41 }
}

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn outer_v4(ip: &Ip, backend: IpAddr, chosen: &Chosen) -> Vec<u8> {
    let mut header = vec![0x45, ip.traffic_class];
    header.extend(be16(ip.len() + 20));
    let id = if ip.may_be_fragmented { chosen.label as usize } else { 0 };
    header.extend(be16(id));
    header.extend(if ip.may_be_fragmented { [0, 0] } else { [0x40, 0] });
    header.extend([64, protocol(ip), 0, 0]);
    header.extend(octets(chosen.source));
    header.extend(octets(backend));
    let sum = checksum::right(checksum::sum(&header));
    put(&mut header, 10, &sum.to_be_bytes());
    header
}

fn outer_v6(ip: &Ip, backend: IpAddr, chosen: &Chosen) -> Vec<u8> {
    let first = 6 << 28 | u32::from(ip.traffic_class) << 20 | chosen.label;
    let mut header = first.to_be_bytes().to_vec();
    header.extend(be16(ip.len()));
    header.extend([protocol(ip), 64]);
    header.extend(octets(chosen.source));
    header.extend(octets(backend));
    header
}
