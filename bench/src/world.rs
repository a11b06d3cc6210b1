//! Addresses of the benchmark's clients, services, backends and sources, and the packets between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use grayxdp::config::Protocol;
use grayxdp_bench_ebpf::course::{BACKEND, BACKEND_TO_SOURCE, CLIENT, Course, FRAME_LEN, FRAME_WORDS};

use crate::case::{Kind, Subject, Traffic};

/// Of each version.
pub(crate) const BACKENDS_PER_VERSION: u8 = 10;
/// `full-nat`: of each list.
pub(crate) const SOURCES_PER_LIST: u8 = 16;
/// The port of the first service; the second one's is the next.
pub(crate) const SERVICE_PORT: u16 = 80;
/// Backends of the first service listen there, the second one's at the next.
const BACKEND_PORT: u16 = 8080;
pub(crate) const GATEWAY_MAC: [u16; 3] = [0x0002, 0, 0x0b00];
pub(crate) const OWN_MAC: [u16; 3] = [0x0002, 0, 0x0a00];

const ETHERNET_LEN: usize = 14;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Where clients connect to.
pub(crate) fn vip(is_v6: bool) -> IpAddr {
    if is_v6 { Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into() } else { Ipv4Addr::new(203, 0, 113, 10).into() }
}

/// Backend 1 to 20 of a service: 1 to 10 are v1's.
pub(crate) fn backend(subject: Subject, traffic: Traffic, service: u16, nth: u8) -> SocketAddr {
    let network = u8::from(traffic.protocol == Protocol::Udp);
    let address: IpAddr = if traffic.is_v6 {
        Ipv6Addr::new(0xfd00, 0, 0, network.into(), 0, 0, 0, nth.into()).into()
    } else {
        Ipv4Addr::new(10, 0, network, nth).into()
    };
    SocketAddr::new(address, backend_port(subject) + service)
}

fn backend_port(subject: Subject) -> u16 {
    // Where the destination stays as it is, backends listen on the service's own port.
    if subject.sees_replies() { BACKEND_PORT } else { SERVICE_PORT }
}

/// `full-nat`: a source address, from 1 on.
pub(crate) fn source(is_v6: bool, nth: u8) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, nth.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2, nth).into()
    }
}

/// The network of the clients; the harness writes the last word.
fn clients(is_v6: bool) -> IpAddr {
    if is_v6 { Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0).into() } else { Ipv4Addr::new(48, 0, 0, 0).into() }
}

/// Services that flows are spread over: a list of source addresses has too few ports for a million flows.
pub(crate) const fn services(subject: Subject) -> u16 {
    if matches!(subject, Subject::FullNat) { 2 } else { 1 }
}

/// A packet, before the harness gives it a flow's addresses and ports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packet {
    /// Of the kind that is measured.
    Of(Kind),
    /// A client's, while flows are made.
    Begin,
    /// A backend's answer to it.
    Answer,
    /// The client's next one.
    Confirm,
    /// To nobody that is known.
    Stray,
}

/// The packets that come: all in order, from flow 0 on.
pub(crate) fn course(subject: Subject, traffic: Traffic, packet: Packet) -> Course {
    let is_reply = matches!(packet, Packet::Answer | Packet::Of(Kind::Reply));
    let flags = match packet {
        Packet::Begin | Packet::Of(Kind::New) => TCP_SYN,
        Packet::Answer => TCP_SYN | TCP_ACK,
        _ => TCP_ACK,
    };
    let backends = backend(subject, traffic, 0, 0).ip();
    let (from, to) = match packet {
        Packet::Stray => (clients(traffic.is_v6), source(traffic.is_v6, 200)),
        _ if is_reply && subject == Subject::FullNat => (backends, source(traffic.is_v6, 0)),
        _ if is_reply => (backends, clients(traffic.is_v6)),
        _ => (clients(traffic.is_v6), vip(traffic.is_v6)),
    };
    let frame = frame(traffic.protocol, flags, from, to);
    let mut words = [0; FRAME_WORDS];
    for (word, bytes) in words.iter_mut().zip(frame[ETHERNET_LEN..].chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Course {
        words,
        macs: [0x0000_0002, 0x0002_0a00, 0x0c00_0000],
        ethertype: u32::from(if traffic.is_v6 { 0x86dd_u16.to_be() } else { 0x0800_u16.to_be() }),
        is_v6: traffic.is_v6.into(),
        side: match subject {
            _ if !is_reply => CLIENT,
            Subject::FullNat => BACKEND_TO_SOURCE,
            _ => BACKEND,
        },
        service_port: (if is_reply { backend_port(subject) } else { SERVICE_PORT }).into(),
        service_mask: u32::from(services(subject)) - 1,
        mask: 0,
        is_in_order: 1,
        position: 0,
        notes: u32::from(matches!(packet, Packet::Begin) && subject.sees_replies()),
        moves: u32::from(subject == Subject::Ipip),
    }
}

/// Bytes of a frame. Its checksums are not right: they are changed incrementally, and checked by nobody.
fn frame(protocol: Protocol, flags: u8, from: IpAddr, to: IpAddr) -> [u8; FRAME_LEN] {
    const HOP_LIMIT: u8 = 64;
    let mut frame = [0; FRAME_LEN];
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    let number: u8 = if protocol == Protocol::Tcp { 6 } else { 17 };
    let l4 = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            put(14, &[0x45, 0, 0, 66, 0, 0, 0x40, 0, HOP_LIMIT, number, 0x12, 0x34]);
            put(26, &from.octets());
            put(30, &to.octets());
            34
        }
        (from, to) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            put(14, &[0x60, 0, 0, 0, 0, 26, number, HOP_LIMIT]);
            put(22, &octets(from));
            put(38, &octets(to));
            54
        }
    };
    if protocol == Protocol::Tcp {
        put(l4 + 12, &[0x50, flags, 0xfa, 0xf0, 0x56, 0x78]);
    } else {
        let len = u8::try_from(FRAME_LEN - l4).unwrap_or(u8::MAX);
        put(l4 + 4, &[0, len, 0x56, 0x78]);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_lengths_that_agree() {
        for traffic in Traffic::ALL {
            let course = course(Subject::Nat, traffic, Packet::Begin);
            let bytes: Vec<u8> = course.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let len = if traffic.is_v6 { usize::from(bytes[5]) + 40 } else { usize::from(bytes[3]) };
            assert_eq!(len, FRAME_LEN - ETHERNET_LEN, "{traffic}");
        }
    }

    #[test]
    fn the_source_port_of_a_reply_is_the_backends() {
        assert_eq!(course(Subject::Nat, Traffic::TCP4, Packet::Of(Kind::Reply)).service_port, 8080);
        assert_eq!(course(Subject::Dsr, Traffic::TCP4, Packet::Of(Kind::Hit)).service_port, 80);
    }
}
