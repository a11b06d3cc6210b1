//! Packets from their fields, checksums from scratch.

use std::net::IpAddr;

use crate::fixture::{CLIENT_MAC, CLIENT_SIDE_MAC};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// A packet's fields.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Ethernet types of VLAN tags.
    pub(super) tags: Vec<u16>,
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    /// TCP, UDP, or anything else, whose payload then follows at once.
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    /// IPv4's flags and offset.
    pub(super) fragment: u16,
    pub(super) id: u16,
    /// IPv4 options, in words.
    pub(super) option_words: usize,
    /// Types of IPv6 extension headers.
    pub(super) extensions: Vec<u8>,
    /// Of TCP.
    pub(super) flags: u8,
    pub(super) numbers: [u32; 2],
    pub(super) tcp_option_words: usize,
    pub(super) has_udp_checksum: bool,
    pub(super) payload: Vec<u8>,
    /// Bytes behind the IP packet.
    pub(super) padding: usize,
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("short").to_be_bytes()
}

pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |chunk: &[u8]| u64::from(chunk[0]) << 8 | u64::from(chunk.get(1).copied().unwrap_or(0));
    let mut sum: u64 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

impl Shape {
    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ports = [self.source.1, self.destination.1];
        let (at, len) = match self.protocol {
            TCP => {
                bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
                bytes.extend(self.numbers.iter().flat_map(|number| number.to_be_bytes()));
                let words = u8::try_from(5 + self.tcp_option_words).expect("at most 15");
                bytes.extend([words << 4, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                bytes.extend(vec![1; self.tcp_option_words * 4]);
                bytes.extend(&self.payload);
                (Some(16), bytes.len())
            }
            UDP => {
                bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
                bytes.extend(be16(8 + self.payload.len()));
                bytes.extend([0, 0]);
                bytes.extend(&self.payload);
                (self.has_udp_checksum.then_some(6), bytes.len())
            }
            1 => {
                bytes.extend(&self.payload);
                bytes.resize(bytes.len().max(8), 0);
                bytes[2..4].fill(0);
                let sum = checksum(&[&bytes]);
                bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                (None, 0)
            }
            58 => {
                bytes.extend(&self.payload);
                bytes.resize(bytes.len().max(8), 0);
                bytes[2..4].fill(0);
                (Some(2), bytes.len())
            }
            _ => {
                bytes.extend(&self.payload);
                (None, 0)
            }
        };
        if let Some(at) = at {
            let (source, destination) = (octets(self.source.0), octets(self.destination.0));
            let pseudo = [[0, self.protocol], be16(len)].concat();
            let sum = checksum(&[&source, &destination, &pseudo, &bytes]);
            let sum = if self.protocol == UDP && sum == 0 { u16::MAX } else { sum };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    fn ip_v4(&self, body: &[u8]) -> Vec<u8> {
        let words = u8::try_from(5 + self.option_words).expect("at most 15");
        let mut bytes = vec![0x40 | words, self.traffic_class];
        bytes.extend(be16(usize::from(words) * 4 + body.len()));
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.hop_limit, self.protocol, 0, 0]);
        bytes.extend(octets(self.source.0));
        bytes.extend(octets(self.destination.0));
        bytes.extend(vec![1; self.option_words * 4]);
        let sum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn ip_v6(&self, body: &[u8]) -> Vec<u8> {
        let mut chain = Vec::new();
        let mut types = self.extensions.clone();
        types.push(self.protocol);
        for pair in types.windows(2) {
            match pair[0] {
                // Offset in units of eight bytes, as IPv4 has it; the flag for more fragments is the lowest bit.
                44 => {
                    let more = u16::from(self.fragment & 0x2000 != 0);
                    chain.extend([pair[1], 0]);
                    chain.extend(((self.fragment & 0x1fff) << 3 | more).to_be_bytes());
                    chain.extend([[0, 0], self.id.to_be_bytes()].concat());
                }
                51 => chain.extend([pair[1], 2, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4]),
                _ => chain.extend([pair[1], 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        let class = u32::from(self.traffic_class);
        let mut bytes = (6 << 28 | class << 20 | 0x1_2345).to_be_bytes().to_vec();
        bytes.extend(be16(chain.len() + body.len()));
        bytes.extend([types[0], self.hop_limit]);
        bytes.extend(octets(self.source.0));
        bytes.extend(octets(self.destination.0));
        bytes.extend(chain);
        bytes
    }

    /// From the Ethernet header on.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [CLIENT_SIDE_MAC, CLIENT_MAC].concat();
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0x20, 7]);
        }
        let body = self.transport();
        let is_v4 = self.source.0.is_ipv4();
        bytes.extend(if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(if is_v4 { self.ip_v4(&body) } else { self.ip_v6(&body) });
        bytes.extend(body);
        bytes.extend(vec![0xaa; self.padding]);
        bytes
    }
}

/// What is read of a packet that the program sent, to answer it.
pub(super) struct Sight {
    pub(super) ip: Vec<u8>,
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    pub(super) protocol: u8,
}

/// `None` for what is not plain TCP or UDP.
pub(super) fn sight(frame: &[u8]) -> Option<Sight> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let is_v4 = frame.get(at..at + 2)? == [0x08, 0x00];
    let ip = frame.get(at + 2..)?;
    let (protocol, ports, addresses) = if is_v4 {
        (*ip.get(9)?, usize::from(ip.first()? & 15) * 4, ip.get(12..20)?)
    } else {
        (*ip.get(6)?, 40, ip.get(8..40)?)
    };
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")),
    };
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let port = |at: usize| Some(u16::from_be_bytes(ip.get(at..at + 2)?.try_into().ok()?));
    (protocol == TCP || protocol == UDP).then_some(Sight {
        ip: ip.to_vec(),
        source: (address(source), port(ports)?),
        destination: (address(destination), port(ports + 2)?),
        protocol,
    })
}
