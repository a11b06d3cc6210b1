//! Packets that are none of grayxdp's, or that nobody can read: passed byte for byte, with the reason counted.

use grayxdp_common::verdict::Verdict;

use crate::fixture::{Frame, Kind, SERVICES, XDP_PASS, ip, request, with_bench};

fn changed(service: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let kind = if service.starts_with("tcp") { Kind::Syn } else { Kind::Udp };
    let mut bytes = request(service, kind, 43_000).bytes();
    change(&mut bytes);
    bytes
}

/// Description, packet, reason.
fn rows() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    let other = |destination| Frame { destination, ..request("tcp4", Kind::Syn, 43_000) }.bytes();
    let set = |service, at: usize, value| changed(service, |bytes| bytes[at] = value);
    vec![
        ("ARP", changed("tcp4", |bytes| bytes[12..14].copy_from_slice(&[0x08, 0x06])), Verdict::PassedNotIp),
        ("a VLAN tag", changed("tcp4", |bytes| bytes[12..14].copy_from_slice(&[0x81, 0x00])), Verdict::PassedNotIp),
        ("the VIP on another port", other((ip("203.0.113.10"), 81)), Verdict::PassedNoService),
        ("another address", other((ip("203.0.113.12"), 80)), Verdict::PassedNoService),
        ("the TCP service's port by UDP", set("tcp4", 23, 17), Verdict::PassedNoService),
        ("ICMP", set("tcp4", 23, 1), Verdict::PassedOtherProtocol),
        ("ICMPv6", set("tcp6", 20, 58), Verdict::PassedOtherProtocol),
        ("SCTP", set("tcp4", 23, 132), Verdict::PassedOtherProtocol),
        ("IPv6 without a next header", set("tcp6", 20, 59), Verdict::PassedOtherProtocol),
        ("a first fragment", set("tcp4", 20, 0x20), Verdict::PassedFragment),
        ("a later fragment", set("tcp4", 21, 0x10), Verdict::PassedFragment),
        ("an IPv6 fragment", set("tcp6", 20, 44), Verdict::PassedFragment),
        ("hop-by-hop options", set("tcp6", 20, 0), Verdict::PassedExtensionHeader),
        ("a routing header", set("udp6", 20, 43), Verdict::PassedExtensionHeader),
        ("destination options", set("udp6", 20, 60), Verdict::PassedExtensionHeader),
        ("an IPv4 header of four words", set("tcp4", 14, 0x44), Verdict::PassedMalformed),
        ("an IPv4 header that covers all", set("udp4", 14, 0x4f), Verdict::PassedMalformed),
        ("IP version 6 as IPv4", set("tcp4", 14, 0x65), Verdict::PassedMalformed),
        ("IP version 4 as IPv6", set("tcp6", 14, 0x45), Verdict::PassedMalformed),
        ("a total length beyond the packet", set("tcp4", 16, 0x7f), Verdict::PassedMalformed),
        (
            "a total length within the header",
            changed("tcp4", |b| b[16..18].copy_from_slice(&[0, 19])),
            Verdict::PassedMalformed,
        ),
        ("a payload length beyond the packet", set("udp6", 18, 0x7f), Verdict::PassedMalformed),
        (
            "a payload length that cuts the ports off",
            changed("udp6", |b| b[18..20].copy_from_slice(&[0, 7])),
            Verdict::PassedMalformed,
        ),
        ("a TCP header of four words", set("tcp4", 46, 0x40), Verdict::PassedMalformed),
        ("a TCP header beyond the packet", set("tcp6", 66, 0xf0), Verdict::PassedMalformed),
    ]
}

#[test]
fn what_is_not_grayxdps_passes_untouched_with_its_reason() {
    with_bench("passed", "", |bench| {
        for (description, packet, expected) in rows() {
            let (verdict, outcome) = bench.run(&packet);
            assert_eq!((verdict, outcome.action), (expected, XDP_PASS), "{description}");
            assert_eq!(outcome.packet, packet, "{description}");
        }
    });
}

#[test]
fn a_packet_cut_off_at_any_byte_passes_untouched() {
    with_bench("cut", "", |bench| {
        for service in SERVICES {
            let whole = changed(service, |_| {});
            for length in 14..whole.len() {
                let (verdict, outcome) = bench.run(&whole[..length]);
                assert_eq!(
                    (verdict, outcome.action),
                    (Verdict::PassedMalformed, XDP_PASS),
                    "{service}, {length} bytes"
                );
                assert_eq!(outcome.packet, whole[..length], "{service}, {length} bytes");
            }
        }
    });
}
