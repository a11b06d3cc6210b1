//! What is counted of connections: each row is a conversation, and all that it must count.

use std::{thread, time::Duration};

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use grayxdp::{
    config::Observe,
    decide::signals::{Counts, ServiceSignals, Signals},
    kernel::{PinRules, Setup, Standing},
};
use grayxdp_common::{ids::Version, verdict::Verdict};

use crate::fixture::{Bench, Frame, Kind, backend, request, with_bench, with_setup};

/// A packet of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packet {
    /// From the client.
    C(Kind, &'static [u8]),
    /// From v1's backend.
    S(Kind, &'static [u8]),
    /// Data of v1's backend at this sequence number.
    Data(u32, &'static [u8]),
    /// A segment of v1's backend with this window.
    Window(u16),
}

use Kind::{Ack, Fin, Rst, Syn, SynAck, Udp};
use Packet::{C, Data, S, Window};

/// A conversation, and what it counts; all else stays as it was.
type Row = (&'static str, &'static [Packet], &'static [(&'static str, u64)]);

pub(crate) const OPEN: [Packet; 3] = [C(Syn, b""), S(SynAck, b""), C(Ack, b"")];

impl Packet {
    pub(crate) fn bytes(self, service: &str, port: u16) -> Vec<u8> {
        let client = request(service, Ack, port);
        let server = client.answer(backend(service, 1), Ack);
        match self {
            C(kind, payload) => Frame { kind, payload, ..client },
            S(kind, payload) => Frame { kind, payload, ..server },
            Data(sequence, payload) => Frame { sequence, payload, ..server },
            Window(window) => Frame { window, payload: b"", ..server },
        }
        .bytes()
    }
}

impl Bench {
    /// All of a service's signals; both versions added.
    pub(crate) fn signals(&mut self, service: &str) -> Signals {
        let index = self.config.services.iter().position(|config| config.name == service).expect("a service");
        let ServiceSignals { v1, v2, .. } = &self.plane.signals().services[index];
        let mut sum = v1.clone();
        sum.add(v2);
        sum
    }
}

/// What is not zero, but for segments that were watched for repetition: which flows are depends on their hash.
pub(crate) fn non_zero(counts: &Counts) -> Vec<(&'static str, u64)> {
    let is_told = |name: &str, count: u64| count > 0 && !["watched_segments", "retransmissions"].contains(&name);
    counts.named().into_iter().filter(|(name, count)| is_told(name, *count)).collect()
}

/// Runs the rows, each by a client port of its own, over both families.
fn check(bench: &mut Bench, protocol: &str, rows: &[Row], always: &[(&'static str, u64)]) {
    for family in ["4", "6"] {
        let service = format!("{protocol}{family}");
        for (port, (name, packets, expected)) in (20_000..).zip(rows) {
            let before = bench.signals(&service);
            for packet in *packets {
                let (verdict, _) = bench.run(&packet.bytes(&service, port));
                assert_eq!(verdict, Verdict::ForwardedOtherInterface, "{service}: {name}: {packet:?}");
            }
            let mut expected: Vec<_> = always.iter().chain(*expected).copied().collect();
            let order = |name: &str| Counts::default().named().iter().position(|(other, _)| *other == name);
            expected.sort_by_key(|(name, _)| order(name).expect("a count"));
            let after = bench.signals(&service);
            let grown = after.since(&before);
            assert_eq!(non_zero(&grown.counts), expected, "{service}: {name}");
            // What was counted was timed, too.
            let ends = grown.counts.closes + grown.counts.server_resets + grown.counts.client_resets;
            assert_eq!(grown.duration.count(), ends, "{service}: {name}");
            let responses = grown.first_response.count() + grown.later_response.count();
            assert_eq!(responses, grown.counts.responses, "{service}: {name}");
            let handshakes = if protocol == "tcp" { grown.counts.established } else { 0 };
            assert_eq!(grown.handshake.count(), handshakes, "{service}: {name}");
            let [flows, errors] = grown.groups.iter().fold([0, 0], |[f, e], one| [f + one.flows, e + one.errors]);
            let failed = grown.counts.transport_errors() + grown.counts.answers_server_error;
            assert_eq!((flows, errors), (grown.counts.flows, failed), "{service}: {name}: groups");
        }
    }
}

#[test]
fn beginnings_and_ends_of_connections_are_counted_once_each() {
    let rows: [Row; 16] = [
        ("a SYN", &[C(Syn, b"")], &[("flows", 1)]),
        (
            "a SYN that comes again",
            &[C(Syn, b""), C(Syn, b""), C(Syn, b"")],
            &[("flows", 1), ("syn_retransmissions", 2)],
        ),
        ("refused", &[C(Syn, b""), S(Rst, b""), S(Rst, b"")], &[("flows", 1), ("refused", 1)]),
        ("refused twice", &[C(Syn, b""), S(Rst, b""), C(Syn, b""), S(Rst, b"")], &[("flows", 2), ("refused", 2)]),
        ("the client gives up", &[C(Syn, b""), C(Rst, b"")], &[("flows", 1)]),
        ("established", &OPEN, &[("flows", 1), ("established", 1)]),
        (
            "SYN and SYN-ACK come again",
            &[C(Syn, b""), C(Syn, b""), S(SynAck, b""), S(SynAck, b""), C(Ack, b""), C(Syn, b"")],
            &[("flows", 1), ("established", 1), ("syn_retransmissions", 2)],
        ),
        (
            "closed by the client first",
            &[C(Syn, b""), S(SynAck, b""), C(Fin, b""), C(Fin, b""), S(Fin, b""), S(Fin, b""), C(Ack, b"")],
            &[("flows", 1), ("established", 1), ("closes", 1)],
        ),
        (
            "closed by the server first",
            &[C(Syn, b""), S(SynAck, b""), S(Fin, b""), C(Fin, b""), S(Ack, b"")],
            &[("flows", 1), ("established", 1), ("closes", 1)],
        ),
        ("half closed", &[C(Syn, b""), S(SynAck, b""), C(Fin, b""), S(Ack, b"")], &[("flows", 1), ("established", 1)]),
        (
            "reset by the server, twice",
            &[C(Syn, b""), S(SynAck, b""), C(Ack, b""), S(Rst, b""), S(Rst, b"")],
            &[("flows", 1), ("established", 1), ("server_resets", 1)],
        ),
        (
            "reset by the client, then the server",
            &[C(Syn, b""), S(SynAck, b""), C(Rst, b""), S(Rst, b"")],
            &[("flows", 1), ("established", 1), ("client_resets", 1)],
        ),
        (
            "reset after it was closed",
            &[C(Syn, b""), S(SynAck, b""), C(Fin, b""), S(Fin, b""), S(Rst, b"")],
            &[("flows", 1), ("established", 1), ("closes", 1)],
        ),
        ("met in its middle", &[C(Ack, b"data"), S(Ack, b"data"), C(Ack, b"more")], &[("requests", 1)]),
        ("met in its middle, and unknown to the server", &[C(Ack, b""), S(Rst, b"")], &[]),
        (
            "closed, and another one from the same port",
            &[C(Syn, b""), S(SynAck, b""), C(Fin, b""), S(Fin, b""), C(Syn, b""), S(SynAck, b"")],
            &[("flows", 2), ("established", 2), ("closes", 1)],
        ),
    ];
    with_bench("ends", "", |bench| check(bench, "tcp", &rows, &[]));
}

#[test]
fn turns_begin_with_the_clients_payload_and_end_with_the_servers() {
    let rows: [Row; 8] = [
        ("a request", &[C(Ack, b"GET"), S(Ack, b"")], &[("requests", 1)]),
        ("a request in parts", &[C(Ack, b"GET"), C(Ack, b" /"), S(Ack, b"")], &[("requests", 1)]),
        ("a response in parts", &[C(Ack, b"GET"), S(Ack, b"o"), S(Ack, b"k")], &[("requests", 1), ("responses", 1)]),
        (
            "three turns",
            &[C(Ack, b"a"), S(Ack, b"A"), C(Ack, b""), C(Ack, b"b"), S(Ack, b"B"), C(Ack, b"c"), S(Ack, b"C")],
            &[("requests", 3), ("responses", 3)],
        ),
        ("the server speaks first", &[S(Ack, b"220 hello"), C(Ack, b"")], &[]),
        (
            "a response with the FIN",
            &[C(Ack, b"a"), S(Fin, b"A"), C(Fin, b"")],
            &[("requests", 1), ("responses", 1), ("closes", 1)],
        ),
        ("a request with the FIN", &[C(Fin, b"a"), S(Ack, b"A")], &[("requests", 1), ("responses", 1)]),
        ("a reset in place of a response", &[C(Ack, b"a"), S(Rst, b"")], &[("requests", 1), ("server_resets", 1)]),
    ];
    with_bench("turns", "", |bench| {
        for service in ["tcp4", "tcp6"] {
            for (port, (name, packets, expected)) in (20_000..).zip(&rows) {
                for packet in OPEN {
                    bench.run(&packet.bytes(service, port));
                }
                let before = bench.signals(service);
                for packet in *packets {
                    bench.run(&packet.bytes(service, port));
                }
                let grown = bench.signals(service).since(&before);
                let counted = non_zero(&grown.counts);
                let mut expected = expected.to_vec();
                expected.sort_by_key(|(name, _)| Counts::default().named().iter().position(|(other, _)| other == name));
                assert_eq!(counted, expected, "{service}: {name}");
                let first = u64::from(grown.counts.responses > 0);
                assert_eq!(grown.first_response.count(), first, "{service}: {name}");
                assert_eq!(grown.later_response.count(), grown.counts.responses - first, "{service}: {name}");
            }
        }
    });
}

#[test]
fn datagrams_and_their_answers_are_turns() {
    let rows: [Row; 4] = [
        ("a datagram", &[C(Udp, b"q")], &[("requests", 1)]),
        (
            "an answer, twice",
            &[C(Udp, b"q"), S(Udp, b"a"), S(Udp, b"a")],
            &[("established", 1), ("requests", 1), ("responses", 1)],
        ),
        (
            "asked again",
            &[C(Udp, b"q"), C(Udp, b"q"), S(Udp, b"a")],
            &[("established", 1), ("requests", 1), ("responses", 1)],
        ),
        (
            "empty ones, twice",
            &[C(Udp, b""), S(Udp, b""), C(Udp, b""), S(Udp, b"")],
            &[("established", 1), ("requests", 2), ("responses", 2)],
        ),
    ];
    with_bench("datagrams", "", |bench| check(bench, "udp", &rows, &[("flows", 1)]));
}

#[test]
fn times_fall_into_the_buckets_of_how_long_things_took() {
    with_bench("times", "", |bench| {
        let pause = || thread::sleep(Duration::from_millis(30));
        let mut run = |packet: Packet| drop(bench.run(&packet.bytes("tcp4", 30_000)));
        run(C(Syn, b""));
        pause();
        run(S(SynAck, b""));
        run(C(Ack, b"a"));
        pause();
        pause();
        run(S(Ack, b"A"));
        run(C(Ack, b"b"));
        run(S(Ack, b"B"));
        run(S(Rst, b""));
        let signals = bench.signals("tcp4");
        for (times, at_least_ms, at_most_ms) in [
            (&signals.handshake, 30.0, 60.0),
            (&signals.first_response, 60.0, 110.0),
            (&signals.later_response, 0.0, 20.0),
            (&signals.duration, 90.0, 200.0),
        ] {
            let ms = times.quantile_us(0.5).expect("one") / 1000.0;
            assert!(times.count() == 1 && at_least_ms * 0.9 <= ms && ms <= at_most_ms, "{at_least_ms} ms: {ms} ms");
        }
    });
}

#[test]
fn zero_windows_are_counted_when_they_begin() {
    with_bench("windows", "", |bench| {
        for packet in OPEN {
            bench.run(&packet.bytes("tcp6", 30_001));
        }
        for packet in [Window(0), Window(0), Window(10), Window(10), Window(0), C(Ack, b"a"), Window(0), S(Rst, b"")] {
            bench.run(&packet.bytes("tcp6", 30_001));
        }
        // The RST's window means nothing.
        assert_eq!(bench.signals("tcp6").counts.zero_windows, 2);
    });
}

#[test]
fn segments_sent_again_are_counted_for_a_sample_of_the_connections() {
    const BASE: u32 = u32::MAX - 10;
    with_bench("again", "", |bench| {
        const CONNECTIONS: u16 = 400;
        for port in 0..CONNECTIONS {
            for packet in OPEN {
                bench.run(&packet.bytes("tcp4", 20_000 + port));
            }
            // Five segments across the wrap, and a keep-alive's; two of the five come again.
            for (offset, payload) in
                [(0, &b"12345678"[..]), (8, b"1234"), (0, b"12345678"), (12, b"1"), (8, b"1234"), (12, b"")]
            {
                bench.run(&Data(BASE.wrapping_add(offset), payload).bytes("tcp4", 20_000 + port));
            }
        }
        let counts = bench.signals("tcp4").counts;
        let connections = counts.watched_segments / 5;
        assert_eq!((counts.watched_segments % 5, counts.retransmissions), (0, connections * 2));
        // One in eight; the bounds are five standard deviations away.
        assert!((17..=83).contains(&connections), "{connections} of {CONNECTIONS}");
    });
}

/// What a backend's host, or one on the way to it, says of a client's packet that arrived there.
fn unreachable(service: &str, kind: Kind, port: u16, code: u8) -> Vec<u8> {
    let sent = Frame { payload: b"", ..request(service, kind, port).towards(backend(service, 1)) }.bytes();
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) =
        (backend(service, 1).0, request(service, kind, port).source.0)
    else {
        panic!("IPv4 only")
    };
    let header = DestUnreachableHeader::from_values(code, 1400).expect("a code");
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x0b], [2, 0, 0, 0, 0, 0xb0])
        .ipv4(from.octets(), to.octets(), 60)
        .icmpv4(Icmpv4Type::DestinationUnreachable(header))
        .write(&mut bytes, &sent[14..42])
        .expect("a vector");
    bytes
}

#[test]
fn an_unreachable_backend_is_an_error_of_who_waits_for_it_once() {
    with_bench("icmp", "", |bench| {
        let mut counts = |kind: Kind, opened: &[Packet], codes: &[u8], then: &[Packet], port: u16| {
            let service = if kind == Udp { "udp4" } else { "tcp4" };
            let before = bench.signals(service);
            opened.iter().for_each(|packet| drop(bench.run(&packet.bytes(service, port))));
            codes.iter().for_each(|&code| drop(bench.run(&unreachable(service, kind, port, code))));
            then.iter().for_each(|packet| drop(bench.run(&packet.bytes(service, port))));
            let grown = bench.signals(service).since(&before).counts;
            (grown.icmp_unreachable, grown.transport_errors())
        };
        assert_eq!(counts(Syn, &[C(Syn, b"")], &[1, 3], &[], 1), (1, 1));
        assert_eq!(counts(Udp, &[C(Udp, b"q")], &[3, 3], &[], 2), (1, 1));
        // Only a smaller packet is asked for; nobody waits; refused besides.
        assert_eq!(counts(Syn, &[C(Syn, b"")], &[4], &[], 3), (0, 0));
        assert_eq!(counts(Ack, &OPEN, &[1], &[], 4), (0, 0));
        assert_eq!(counts(Syn, &[C(Syn, b"")], &[1], &[S(Rst, b"")], 5), (1, 1));
        assert_eq!(counts(Syn, &[C(Syn, b""), S(Rst, b"")], &[1], &[], 6), (0, 1));
    });
}

/// A setup whose services observe.
pub(crate) fn peeking(observe: Observe) -> impl FnOnce(&mut Setup) + Send {
    move |setup| setup.services.iter_mut().for_each(|service| service.signals.observe = observe)
}

/// Runs one turn for each payload, all on one connection; says what was counted of answers.
fn answers(bench: &mut Bench, service: &str, port: u16, payloads: &[&'static [u8]]) -> [u64; 5] {
    let before = bench.signals(service);
    let kind = if service.starts_with("udp") { Udp } else { Ack };
    if kind == Ack {
        OPEN.iter().for_each(|packet| drop(bench.run(&packet.bytes(service, port))));
    }
    for payload in payloads {
        bench.run(&C(kind, b"ask").bytes(service, port));
        bench.run(&S(kind, payload).bytes(service, port));
    }
    let grown = bench.signals(service).since(&before).counts;
    [grown.answers_good, grown.answers_client_error, grown.answers_server_error, grown.answers_unknown, grown.responses]
}

#[test]
fn http_statuses_are_read_where_a_response_begins_and_nowhere_else() {
    with_setup("http1", "", peeking(Observe::Http1), |bench| {
        for (port, (payloads, expected)) in (1..).zip([
            (
                &[&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.0 304 Not Modified\r\n", b"HTTP/1.1 204\r\n"][..],
                [3, 0, 0, 0, 3],
            ),
            (&[b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 500 Oh\r\n", b"HTTP/1.1 503 \r\n"], [0, 1, 2, 0, 3]),
            // Not final: the turn goes on, and what follows is its answer.
            (&[b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 201 Created\r\n"], [1, 0, 0, 0, 1]),
            // The final answer in the same segment.
            (&[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n"], [0, 0, 0, 1, 1]),
            (&[b"HTTP/1.1 101 Switching\r\n", b"\x81\x05hello"], [1, 0, 0, 1, 2]),
            // A response that goes on, a shorter one, other versions, no status.
            (
                &[b"...<p>HTTP/1.1 500 in a page", b"HTTP/1.1 50", b"HTTP/2.0 200 OK\r\n", b"HTTP/1.1 999 \r\n"],
                [0, 0, 0, 4, 4],
            ),
            (
                &[b"HTTP/1.1 5000 \r\n", b"HTTP/1.1 2x0 \r\n", b"HTTP/1.1  200 \r\n", b"HTTP/1.x 200 \r\n"],
                [0, 0, 0, 4, 4],
            ),
        ]) {
            assert_eq!(answers(bench, "tcp4", port, payloads), expected, "{payloads:?}");
            assert_eq!(answers(bench, "tcp6", port, payloads), expected, "{payloads:?}");
        }
    });
}

#[test]
fn a_tls_servers_first_record_tells_a_handshake_from_an_alert() {
    with_setup("tls", "", peeking(Observe::Tls), |bench| {
        for (port, (payloads, expected)) in (1..).zip([
            // What follows is encrypted, and not looked into.
            (
                &[&b"\x16\x03\x03\x00\x7a\x02"[..], b"\x17\x03\x03\x00\x10", b"\x15\x03\x03\x00\x02"][..],
                [1, 0, 0, 0, 3],
            ),
            (&[b"\x15\x03\x01\x00\x02\x02\x28"], [0, 0, 1, 0, 1]),
            (&[b"HTTP/1.1 400 Bad Request\r\n"], [0, 0, 0, 1, 1]),
            (&[b"\x16\x03"], [0, 0, 0, 1, 1]),
        ]) {
            assert_eq!(answers(bench, "tcp4", port, payloads), expected, "{payloads:?}");
        }
    });
}

#[test]
fn a_dns_response_code_tells_an_answer_from_a_failure() {
    const NOERROR: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0";
    const NXDOMAIN: &[u8] = b"\x12\x34\x81\x83\0\x01\0\0\0\0\0\0";
    const SERVFAIL: &[u8] = b"\x12\x34\x81\x82\0\x01\0\0\0\0\0\0";
    const REFUSED: &[u8] = b"\x12\x34\x81\x85\0\x01\0\0\0\0\0\0";
    const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0";
    with_setup("dns", "", peeking(Observe::Dns), |bench| {
        let payloads = [NOERROR, NXDOMAIN, SERVFAIL, REFUSED, QUERY, b"short"];
        assert_eq!(answers(bench, "udp4", 1, &payloads), [2, 0, 1, 3, 6]);
        assert_eq!(answers(bench, "udp6", 1, &payloads), [2, 0, 1, 3, 6]);
        // Over TCP, the length comes first.
        let over_tcp: [&'static [u8]; 2] =
            [b"\0\x0c\x12\x34\x81\x82\0\x01\0\0\0\0\0\0", b"\0\x0c\x12\x34\x81\x80\0\x01\0\0\0\0\0\0"];
        assert_eq!(answers(bench, "tcp4", 1, &over_tcp), [1, 0, 1, 0, 2]);
    });
}

#[test]
fn flows_that_no_weight_placed_are_counted_beside_the_others() {
    let canary = |setup: &mut Setup| setup.services[0].canary_port = Some(8888);
    with_setup("unweighted", "", canary, |bench| {
        let connect = |bench: &mut Bench, client_port: u16, port: u16| -> [(u64, u64); 2] {
            let before = bench.plane.signals().services[0].clone();
            let syn = request("tcp4", Syn, client_port);
            let syn = Frame { destination: (syn.destination.0, port), ..syn };
            let ack = Frame { kind: Ack, ..syn };
            for packet in [syn, syn, ack] {
                assert_eq!(bench.run(&packet.bytes()).0, Verdict::ForwardedOtherInterface);
            }
            let now = &bench.plane.signals().services[0];
            [now.v1.since(&before.v1), now.v2.since(&before.v2)].map(|s| (s.counts.flows, s.counts.unweighted))
        };
        let none = (0, 0);
        for (client_port, weight, port, expected) in [
            (1, 0, 80, [(1, 0), none]),
            (2, 10_000, 80, [none, (1, 0)]),
            (3, 0, 8888, [none, (1, 1)]),
            (4, 10_000, 8888, [none, (1, 1)]),
        ] {
            bench.set_weight("tcp4", weight);
            assert_eq!(connect(bench, client_port, port), expected, "port {port} at {weight}");
        }
        // All have this code point; who has no pin goes by weight.
        bench.plane.set_pins(0, PinRules { networks: Vec::new(), dscp: vec![(0, Version::V1)] }).expect("taken");
        assert_eq!(connect(bench, 5, 80), [(1, 1), none], "pinned");
        bench.plane.set_pins(0, PinRules::default()).expect("taken");
        assert_eq!(connect(bench, 6, 80), [none, (1, 0)], "no longer pinned");
        let mut pools = Setup::from(&bench.config).services[0].pools.clone();
        pools[1][0].standing = Standing::Down;
        bench.plane.set_backends(0, pools).expect("taken");
        assert_eq!(connect(bench, 7, 80), [(1, 1), none], "v2 has no live backend");
    });
}

#[test]
fn nothing_is_counted_where_signals_are_off() {
    let off = |setup: &mut Setup| setup.services.iter_mut().for_each(|service| service.signals.enabled = false);
    with_setup("off", "", off, |bench| {
        for packet in OPEN.into_iter().chain([C(Ack, b"a"), S(Ack, b"A"), S(Rst, b"")]) {
            bench.run(&packet.bytes("tcp4", 1));
        }
        bench.run(&C(Udp, b"").bytes("udp4", 1));
        bench.plane.sweep();
        assert_eq!(bench.signals("tcp4").counts, Counts::default());
        assert_eq!(bench.signals("udp4").counts, Counts::default());
    });
}
