//! Packets of services: what they become. Expected bytes are built from scratch, checksums included.

use grayxdp_common::verdict::Verdict;

use crate::fixture::{Frame, Kind, SERVICES, XDP_DROP, XDP_PASS, XDP_REDIRECT, backend, ip, request, with_bench};

fn first_kind(service: &str) -> Kind {
    if service.starts_with("tcp") { Kind::Syn } else { Kind::Udp }
}

#[test]
fn a_first_packet_goes_to_the_version_that_the_weight_says_and_its_answer_comes_from_the_vip() {
    with_bench("first", "", |bench| {
        for (version, weight) in [(1, 0), (2, 10_000)] {
            for service in SERVICES {
                bench.set_weight(service, weight);
                let sent = request(service, first_kind(service), 40_000 + weight);
                let (verdict, outcome) = bench.run(&sent.bytes());
                assert_eq!((verdict, outcome.action), (Verdict::ForwardedOtherInterface, XDP_REDIRECT), "{service}");
                assert_eq!(outcome.packet, sent.towards(backend(service, version)).bytes(), "{service} v{version}");

                let kind = if service.starts_with("tcp") { Kind::SynAck } else { Kind::Udp };
                let answer = sent.answer(backend(service, version), kind);
                let (verdict, outcome) = bench.run(&answer.bytes());
                assert_eq!((verdict, outcome.action), (Verdict::ForwardedOtherInterface, XDP_REDIRECT), "{service}");
                assert_eq!(outcome.packet, answer.returned(sent.destination).bytes(), "{service} v{version}");
            }
        }
    });
}

#[test]
fn ipv4_options_of_every_length_are_carried_along() {
    with_bench("options", "", |bench| {
        for option_words in 0..=10 {
            for service in ["tcp4", "udp4"] {
                let sent = Frame { option_words, ..request(service, first_kind(service), 41_000) };
                let (_, outcome) = bench.run(&sent.bytes());
                assert_eq!(
                    outcome.packet,
                    sent.towards(backend(service, 1)).bytes(),
                    "{service}, {option_words} words"
                );
            }
        }
    });
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    with_bench("udp-zero", "", |bench| {
        let sent = request("udp4", Kind::UdpUnchecked, 41_001);
        let (_, outcome) = bench.run(&sent.bytes());
        assert_eq!(outcome.packet, sent.towards(backend("udp4", 1)).bytes());
    });
}

#[test]
fn a_udp_checksum_is_never_written_as_zero() {
    with_bench("udp-ffff", "", |bench| {
        // One port of all makes the rewritten packet's sum come out as zero, which is sent as 0xffff (RFC 768).
        let mut met = 0;
        for port in 1..=u16::MAX {
            let expected = request("udp4", Kind::Udp, port).towards(backend("udp4", 1)).bytes();
            if expected[40..42] == [0xff, 0xff] {
                met += 1;
                let (_, outcome) = bench.run(&request("udp4", Kind::Udp, port).bytes());
                assert_eq!(outcome.packet, expected, "port {port}");
            }
        }
        assert!(met > 0, "no port led to a sum of zero");
    });
}

#[test]
fn ethernet_padding_is_left_alone() {
    with_bench("padding", "", |bench| {
        let sent = Frame { payload: b"", ..request("tcp4", Kind::Syn, 41_002) };
        let padded = |frame: Frame| [frame.bytes(), vec![0; 6]].concat();
        let (_, outcome) = bench.run(&padded(sent));
        assert_eq!(outcome.packet, padded(sent.towards(backend("tcp4", 1))));
    });
}

#[test]
fn a_packet_whose_hops_are_used_up_is_dropped() {
    with_bench("hops", "", |bench| {
        for service in SERVICES {
            for hop_limit in [0, 1] {
                let sent = Frame { hop_limit, ..request(service, first_kind(service), 41_003) };
                let (verdict, outcome) = bench.run(&sent.bytes());
                assert_eq!((verdict, outcome.action), (Verdict::DroppedHopLimit, XDP_DROP), "{service}");
            }
        }
    });
}

const ODD_BACKENDS: &str = r#"
[[service]]
name = "unresolved"
vip = "203.0.113.11"
port = 80
protocol = "tcp"
hash_seed = "packets"
v1 = { backends = [{ address = "10.77.2.99:8080" }] }
v2 = { backends = [{ address = "192.0.2.1:8080" }] }
"#;

#[test]
fn a_packet_with_an_unresolved_neighbour_is_left_to_the_kernel_for_it_to_resolve() {
    with_bench("neighbour", ODD_BACKENDS, |bench| {
        let sent = Frame { destination: (ip("203.0.113.11"), 80), ..request("tcp4", Kind::Syn, 41_004) };
        let (verdict, outcome) = bench.run(&sent.bytes());
        assert_eq!((verdict, outcome.action), (Verdict::HandedNeighbourUnknown, XDP_PASS));
        // The kernel sees to MAC addresses and TTL itself.
        assert_eq!(outcome.packet, Frame { destination: (ip("10.77.2.99"), 8080), ..sent }.bytes());
    });
}

#[test]
fn a_packet_to_a_backend_without_a_route_is_counted_as_such() {
    with_bench("no-route", ODD_BACKENDS, |bench| {
        bench.set_weight("unresolved", 10_000);
        let sent = Frame { destination: (ip("203.0.113.11"), 80), ..request("tcp4", Kind::Syn, 41_005) };
        let (verdict, outcome) = bench.run(&sent.bytes());
        assert_eq!((verdict, outcome.action), (Verdict::HandedNotForwarded, XDP_PASS));
    });
}

#[test]
fn a_packet_larger_than_the_way_out_is_left_to_the_kernel_where_it_may_be_fragmented() {
    with_bench("too-big", "", |bench| {
        const PAYLOAD: &[u8] = &[7; 1_600];
        let may_be_fragmented = |frame: Frame| {
            let mut bytes = frame.bytes();
            bytes[20] = 0;
            bytes[24..26].fill(0);
            let sum: u32 = bytes[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one carry");
            bytes[24..26].copy_from_slice(&(!folded).to_be_bytes());
            bytes
        };
        let sent = Frame { payload: PAYLOAD, ..request("udp4", Kind::Udp, 41_006) };
        let (verdict, outcome) = bench.run(&may_be_fragmented(sent));
        assert_eq!((verdict, outcome.action), (Verdict::HandedTooBig, XDP_PASS));
        assert_eq!(outcome.packet, may_be_fragmented(Frame { destination: backend("udp4", 1), ..sent }));
        let (verdict, outcome) = bench.run(&sent.bytes());
        assert_eq!((verdict, outcome.action), (Verdict::AnsweredTooBig, XDP_REDIRECT));
        assert_eq!(outcome.packet[14..][..540][28..], sent.bytes()[14..][..512], "the quote");
        assert_eq!(
            outcome.packet[34..42],
            [3, 4, outcome.packet[36], outcome.packet[37], 0, 0, 1500_u16.to_be_bytes()[0], 1500_u16.to_be_bytes()[1]]
        );
    });
}
