//! Packets that are none of grayxdp's are passed byte for byte; what is malformed and for a service is dropped. Each with
//! its reason counted.

use grayxdp_common::verdict::{Action, Verdict};

use crate::fixture::{Frame, Kind, SERVICES, XDP_DROP, XDP_PASS, ip, request, with_bench};

fn changed(service: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let kind = if service.starts_with("tcp") { Kind::Syn } else { Kind::Udp };
    let mut bytes = request(service, kind, 43_000).bytes();
    change(&mut bytes);
    bytes
}

/// Description, packet, verdict.
fn rows() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    let other = |kind, destination| Frame { destination, ..request("tcp4", kind, 43_000) }.bytes();
    let set = |service, at: usize, value| changed(service, |bytes| bytes[at] = value);
    let elsewhere = |bytes: &mut Vec<u8>| bytes[33] = 99;
    vec![
        ("ARP", changed("tcp4", |bytes| bytes[12..14].copy_from_slice(&[0x08, 0x06])), Verdict::PassedNotIp),
        (
            "a VLAN tag and no IP",
            changed("tcp4", |bytes| bytes[12..14].copy_from_slice(&[0x81, 0])),
            Verdict::PassedNotIp,
        ),
        ("the VIP on another port", other(Kind::Syn, (ip("203.0.113.10"), 81)), Verdict::PassedNoService),
        ("another address", other(Kind::Syn, (ip("203.0.113.12"), 80)), Verdict::PassedNoService),
        ("the TCP service's port by UDP", other(Kind::Udp, (ip("203.0.113.10"), 80)), Verdict::PassedNoService),
        ("ICMP", set("tcp4", 23, 1), Verdict::PassedOtherProtocol),
        ("ICMPv6", set("tcp6", 20, 58), Verdict::PassedOtherProtocol),
        ("SCTP", set("tcp4", 23, 132), Verdict::PassedOtherProtocol),
        ("IPv6 without a next header", set("tcp6", 20, 59), Verdict::PassedOtherProtocol),
        ("a later fragment", set("tcp4", 21, 0x10), Verdict::PassedFragment),
        ("a later IPv6 fragment", set("tcp6", 20, 44), Verdict::PassedFragment),
        ("hop-by-hop options beyond the packet", set("tcp6", 20, 0), Verdict::DroppedIpHeader),
        ("an IPv4 header of four words", set("tcp4", 14, 0x44), Verdict::DroppedIpHeader),
        ("an IPv4 header that covers all", set("udp4", 14, 0x4f), Verdict::DroppedIpHeader),
        ("IP version 6 as IPv4", set("tcp4", 14, 0x65), Verdict::DroppedIpHeader),
        ("IP version 4 as IPv6", set("tcp6", 14, 0x45), Verdict::DroppedIpHeader),
        ("a total length beyond the packet", set("tcp4", 16, 0x7f), Verdict::DroppedIpHeader),
        (
            "the same to another address",
            changed("tcp4", |bytes| {
                bytes[16] = 0x7f;
                elsewhere(bytes);
            }),
            Verdict::PassedMalformed,
        ),
        (
            "a total length within the header",
            changed("tcp4", |b| b[16..18].copy_from_slice(&[0, 19])),
            Verdict::DroppedIpHeader,
        ),
        ("a payload length beyond the packet", set("udp6", 18, 0x7f), Verdict::DroppedIpHeader),
        (
            "a payload length that cuts the ports off",
            changed("udp6", |b| b[18..20].copy_from_slice(&[0, 7])),
            Verdict::DroppedTransportHeader,
        ),
        ("a TCP header of four words", set("tcp4", 46, 0x40), Verdict::DroppedTransportHeader),
        (
            "the same to another address",
            changed("tcp4", |bytes| {
                bytes[46] = 0x40;
                elsewhere(bytes);
            }),
            Verdict::PassedMalformed,
        ),
        ("a TCP header beyond the packet", set("tcp6", 66, 0xf0), Verdict::DroppedTransportHeader),
        ("no TCP flag at all", set("tcp4", 47, 0), Verdict::DroppedTcpFlags),
        ("SYN and FIN", set("tcp6", 67, 3), Verdict::DroppedTcpFlags),
        ("from the service itself", land("tcp4"), Verdict::DroppedLandAttack),
        ("from the loopback network", set("tcp4", 26, 127), Verdict::DroppedMartianSource),
        ("from a multicast address", set("udp6", 22, 0xff), Verdict::DroppedMartianSource),
    ]
}

fn land(service: &str) -> Vec<u8> {
    let sent = request(service, Kind::Syn, 43_000);
    Frame { source: sent.destination, ..sent }.bytes()
}

#[test]
fn what_is_not_grayxdps_passes_untouched_and_what_is_malformed_is_dropped_each_with_its_reason() {
    with_bench("passed", "", |bench| {
        for (description, packet, expected) in rows() {
            let (verdict, outcome) = bench.run(&packet);
            let action = if expected.action() == Action::Drop { XDP_DROP } else { XDP_PASS };
            assert_eq!((verdict, outcome.action), (expected, action), "{description}");
            assert_eq!(outcome.packet, packet, "{description}");
        }
    });
}

#[test]
fn a_packet_cut_off_at_any_byte_is_dropped_as_soon_as_its_vip_can_be_read() {
    with_bench("cut", "", |bench| {
        for service in SERVICES {
            let whole = changed(service, |_| {});
            let header_len = if service.ends_with('4') { 20 } else { 40 };
            for length in 14..whole.len() {
                let (expected, action) = if length < 14 + header_len {
                    (Verdict::PassedNotIp, XDP_PASS)
                } else {
                    (Verdict::DroppedIpHeader, XDP_DROP)
                };
                let (verdict, outcome) = bench.run(&whole[..length]);
                assert_eq!((verdict, outcome.action), (expected, action), "{service}, {length} bytes");
                assert_eq!(outcome.packet, whole[..length], "{service}, {length} bytes");
            }
        }
    });
}
