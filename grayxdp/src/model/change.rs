//! Changes packets: fields are overwritten, and then every checksum that covers them is summed afresh.

use std::{net::IpAddr, ops::Range};

use super::{
    checksum,
    wire::{self, Endpoint, Ip, TCP, UDP},
};

/// What is to be changed.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    pub(super) source: Option<Endpoint>,
    pub(super) destination: Option<Endpoint>,
    /// Where addresses change without ports.
    pub(super) addresses: [Option<IpAddr>; 2],
    pub(super) hop_limit: Option<u8>,
    pub(super) macs: Option<[u8; 12]>,
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Where both addresses of an IP header lie.
fn addresses(at: usize, is_v4: bool) -> Range<usize> {
    if is_v4 { at + 12..at + 20 } else { at + 8..at + 40 }
}

pub(super) fn put_address(bytes: &mut [u8], at: usize, is_destination: bool, address: IpAddr) {
    let range = addresses(at, address.is_ipv4());
    let start = if is_destination { range.start + range.len() / 2 } else { range.start };
    put(bytes, start, &octets(address));
}

/// Sum of what lies there; nothing where it does not exist.
pub(super) fn sum(bytes: &[u8], range: Range<usize>) -> u64 {
    bytes.get(range).map_or(0, checksum::sum)
}

/// Gives the checksum at `at` the error that it had, over ranges that it covers. A UDP checksum (`is_udp`) of zero means
/// "none" and stays; one that comes out as zero is written as all ones.
pub(super) fn carry(before: &[u8], after: &mut [u8], at: usize, covered: &[Range<usize>], is_udp: bool) {
    let Some(old) = wire::u16_at(before, at) else { return };
    if is_udp && old == 0 {
        return;
    }
    let all = |bytes: &[u8]| covered.iter().map(|range| sum(bytes, range.clone())).sum::<u64>() % 0xffff;
    let wanted = all(before);
    put(after, at, &[0, 0]);
    let new = checksum::completing(wanted, all(after));
    put(after, at, &(if is_udp && new == 0 { u16::MAX } else { new }).to_be_bytes());
}

/// The IPv4 header's own checksum.
pub(super) fn carry_header(before: &[u8], after: &mut [u8], at: usize, header_len: usize) {
    carry(before, after, at + 10, std::slice::from_ref(&(at..at + header_len)), false);
}

/// The transport header's checksum, its pseudo-header included; `payload..end` is what is there of the IP payload.
pub(super) fn carry_transport(before: &[u8], after: &mut [u8], ip: (usize, bool), protocol: u8, payload: Range<usize>) {
    let at = payload.start + if protocol == TCP { 16 } else { 6 };
    if at + 2 <= payload.end {
        carry(before, after, at, &[addresses(ip.0, ip.1), payload], protocol == UDP);
    }
}

/// The packet, changed; `is_flow`: it has a transport header.
pub(super) fn changed(frame: &[u8], ip: &Ip, is_flow: bool, change: &Change) -> Vec<u8> {
    let mut after = frame.to_vec();
    for (nth, endpoint) in [change.source, change.destination].into_iter().enumerate() {
        if let Some(endpoint) = endpoint {
            put_address(&mut after, ip.at, nth == 1, endpoint.address);
            put(&mut after, ip.payload + nth * 2, &endpoint.port.to_be_bytes());
        }
    }
    for (nth, address) in change.addresses.into_iter().enumerate() {
        if let Some(address) = address {
            put_address(&mut after, ip.at, nth == 1, address);
        }
    }
    if let Some(hop_limit) = change.hop_limit {
        put(&mut after, ip.at + if ip.is_v4() { 8 } else { 7 }, &[hop_limit]);
    }
    if let Some(macs) = change.macs {
        put(&mut after, 0, &macs);
    }
    if ip.is_v4() {
        carry_header(frame, &mut after, ip.at, ip.header_len);
    }
    if is_flow && (change.source.is_some() || change.destination.is_some()) {
        carry_transport(frame, &mut after, (ip.at, ip.is_v4()), ip.protocol, ip.payload..ip.end);
    }
    after
}

/// Sender and receiver exchanged.
pub(super) fn swapped_macs(frame: &[u8]) -> Option<[u8; 12]> {
    let mut macs: [u8; 12] = frame.get(..12)?.try_into().ok()?;
    macs.rotate_left(6);
    Some(macs)
}

/// The sum of a pseudo-header (RFC 8200 8.1, RFC 9293 3.1).
pub(super) fn pseudo(bytes: &[u8], at: usize, is_v4: bool, protocol: u8, len: usize) -> u64 {
    sum(bytes, addresses(at, is_v4)) + u64::from(protocol) + len as u64
}

/// The ranges that an ICMP message's checksum covers.
pub(super) fn icmp_covered(ip: &Ip) -> Vec<Range<usize>> {
    let message = ip.payload..ip.end;
    if ip.is_v4() { vec![message] } else { vec![addresses(ip.at, false), message] }
}
