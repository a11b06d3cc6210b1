//! `full-nat`: both ends are rewritten, source ports are given back, and run out no earlier than they must.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use grayxdp::kernel::SourcePorts;
use grayxdp_common::{
    layout::{Address, NextHop, Route},
    verdict::Verdict,
};

use crate::fixture::{
    BACKEND_MAC, BACKEND_SIDE_MAC, Bench, CLIENT_MAC, CLIENT_SIDE_MAC, Frame, Kind, XDP_DROP, XDP_REDIRECT, index_of,
    ip, request, with_setup,
};

const FULL_NAT: &str = r#"
[[service]]
name = "full"
vip = "203.0.113.12"
port = 80
canary_port = 81
protocol = "tcp"
key = "connection"
mode = "full-nat"
source_addresses = ["10.77.2.1"]
hash_seed = "packets"
v1 = { backends = [{ address = "10.77.2.10:8090" }] }
v2 = { backends = [{ address = "10.77.2.20:8091" }] }
"#;

fn client(number: u32, kind: Kind) -> Frame {
    let [_, high, a, b] = number.to_be_bytes();
    let source = (IpAddr::from([198, 51, 100, b]), 1_024 + u16::from_be_bytes([high, a]));
    Frame { source, destination: (ip("203.0.113.12"), 80), payload: b"", ..request("tcp4", kind, 0) }
}

fn with_ports(name: &str, count: u16, test: impl FnOnce(&mut Bench) + Send) {
    with_setup(name, FULL_NAT, |setup| setup.source_ports = SourcePorts { first: 20_000, count }, test);
}

/// The same twice: asking the kernel for ways, the long way through the program, and with ways that the program was told,
/// which is the short one.
fn with_ports_each_way(name: &str, count: u16, test: impl Fn(&mut Bench) + Send + Sync) {
    with_ports(&format!("{name}-long"), count, &test);
    with_ports(&format!("{name}-short"), count, |bench| {
        tell_ways(bench);
        test(bench);
    });
}

fn tell_ways(bench: &mut Bench) {
    let words = |mac: [u8; 6]| [0, 2, 4].map(|at| u16::from_ne_bytes([mac[at], mac[at + 1]]));
    let hop = |interface: &str, to: [u8; 6], from: [u8; 6]| NextHop {
        destination_mac: words(to),
        mtu: 1500,
        source_mac: words(from),
        interface: index_of(interface),
        ..NextHop::default()
    };
    let to_backend = hop("gb", BACKEND_MAC, BACKEND_SIDE_MAC);
    bench.plane.set_next_hops(&["10.77.2.10", "10.77.2.20"].map(|text| (ip(text), Some(to_backend))));
    let everywhere = Route {
        network: Address::from(ip("0.0.0.0")),
        mask: Address::from_v6_wire([u32::MAX, u32::MAX, u32::MAX, 0]),
        next_hop: hop("ga", CLIENT_MAC, CLIENT_SIDE_MAC),
    };
    bench.plane.set_routes(&[everywhere]).expect("one route");
    bench.plane.lease_hops(Duration::MAX);
}

fn source_port(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[34], packet[35]])
}

fn dropped(bench: &Bench) -> u64 {
    let counts = bench.plane.verdict_counts().expect("readable");
    let is_it = |(verdict, _): &&(Verdict, u64)| *verdict == Verdict::DroppedNoSourcePort;
    counts.iter().find(is_it).map_or(0, |(_, count)| *count)
}

/// Opens and resets connections; each must get a port of the range.
fn open_and_reset(bench: &mut Bench, connections: u32) {
    let (mut syn, mut reset) = (client(0, Kind::Syn).bytes(), client(0, Kind::Rst).bytes());
    let mut ports = HashSet::new();
    for number in 0..connections {
        // Written in place: building packets would take longer than running them. Checksums go wrong, which is nobody's
        // concern here.
        let [high, a, b, c] = number.to_be_bytes();
        for frame in [&mut syn, &mut reset] {
            frame[28..30].copy_from_slice(&[100 + high, c]);
            frame[34..36].copy_from_slice(&[a | 0x80, b]);
        }
        let outcome = bench.plane.test_run(&syn).expect("a test run");
        assert_eq!(outcome.action, XDP_REDIRECT, "connection {number}");
        let port = source_port(&outcome.packet);
        assert!((20_000..20_256).contains(&port), "connection {number} got port {port}");
        ports.insert(port);
        let outcome = bench.plane.test_run(&reset).expect("a test run");
        assert_eq!((outcome.action, source_port(&outcome.packet)), (XDP_REDIRECT, port), "connection {number}");
    }
    assert_eq!(ports.len(), 256, "all ports are used");
    assert_eq!(dropped(bench), 0);
}

#[test]
fn a_reset_connection_gives_its_source_port_back_200_000_times() {
    with_ports_each_way("ports-back", 256, |bench| open_and_reset(bench, 200_000));
}

#[test]
#[ignore = "takes minutes"]
fn a_reset_connection_gives_its_source_port_back_10_million_times() {
    with_ports("ports-ten-million", 256, |bench| {
        tell_ways(bench);
        open_and_reset(bench, 10_000_000);
    });
}

#[test]
fn packets_of_a_conversation_have_both_ends_rewritten_in_both_directions() {
    with_ports_each_way("ports-ends", 40_000, |bench| {
        let backends = [(ip("10.77.2.10"), 8090), (ip("10.77.2.20"), 8091)];
        // Weights send everybody to v1; the canary port is v2's.
        for (number, (port, backend)) in (0..).zip([(80, backends[0]), (81, backends[1])]) {
            let vip = (ip("203.0.113.12"), port);
            let from_client = |kind, payload| Frame { destination: vip, payload, ..client(number, kind) };
            let syn = from_client(Kind::Syn, b"");
            let (verdict, outcome) = bench.run(&syn.bytes());
            assert_eq!(verdict, Verdict::ForwardedOtherInterface, "port {port}");
            let source = (ip("10.77.2.1"), source_port(&outcome.packet));
            assert_eq!(outcome.packet, Frame { source, ..syn.towards(backend) }.bytes(), "port {port}");
            let request = from_client(Kind::Ack, b"gray");
            let (_, outcome) = bench.run(&request.bytes());
            assert_eq!(outcome.packet, Frame { source, ..request.towards(backend) }.bytes(), "port {port}");
            for kind in [Kind::SynAck, Kind::Ack, Kind::Fin] {
                let answer = Frame { source, ..syn }.answer(backend, kind);
                let (verdict, outcome) = bench.run(&answer.bytes());
                assert_eq!(verdict, Verdict::ForwardedOtherInterface, "port {port}, {kind:?}");
                let expected = Frame { destination: syn.source, ..answer.returned(vip) };
                assert_eq!(outcome.packet, expected.bytes(), "port {port}, {kind:?}");
            }
            // Of the other backend no such conversation is known.
            let stray = Frame { source, ..syn }.answer(backends[usize::from(port == 80)], Kind::Ack);
            let (verdict, outcome) = bench.run(&stray.bytes());
            assert_eq!((verdict, outcome.packet), (Verdict::PassedBackendNoFlow, stray.bytes()), "port {port}");
        }
    });
}

#[test]
fn no_connection_is_refused_while_three_ports_in_ten_are_free() {
    with_ports_each_way("ports-most", 2_500, |bench| {
        let mut ports = HashSet::new();
        for number in 0..1_750 {
            let (verdict, outcome) = bench.run(&client(number, Kind::Syn).bytes());
            assert_eq!(verdict, Verdict::ForwardedOtherInterface, "connection {number}");
            assert!(ports.insert(source_port(&outcome.packet)), "connection {number} got another one's port");
        }
    });
}

#[test]
fn ports_do_not_count_up() {
    with_ports_each_way("ports-order", 40_000, |bench| {
        let mut port = |number| source_port(&bench.run(&client(number, Kind::Syn).bytes()).1.packet);
        let ports: Vec<u16> = (0..500).map(&mut port).collect();
        let steps: Vec<u16> = ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        let ones = steps.iter().filter(|step| **step == 1).count();
        assert!((100..400).contains(&ones), "{ones} of 499 ports follow the one before");
        assert!(steps.iter().filter(|step| **step > 100).count() >= 4, "the search moves elsewhere: {steps:?}");
    });
}

#[test]
fn connections_beyond_the_source_ports_are_refused_and_counted_until_one_ends() {
    // As many as are tried, so that every free one is found.
    with_ports_each_way("ports-out", 64, |bench| {
        let mut ports = HashSet::new();
        for number in 0..64 {
            let (verdict, outcome) = bench.run(&client(number, Kind::Syn).bytes());
            assert_eq!(verdict, Verdict::ForwardedOtherInterface, "connection {number}");
            assert!(ports.insert(source_port(&outcome.packet)), "connection {number} got another one's port");
        }
        for number in 64..74 {
            let (verdict, outcome) = bench.run(&client(number, Kind::Syn).bytes());
            assert_eq!((verdict, outcome.action), (Verdict::DroppedNoSourcePort, XDP_DROP), "connection {number}");
        }
        assert_eq!(dropped(bench), 10);
        assert_eq!(bench.counter("full", |counters| counters.new_flows), 64, "the refused ones count for no backend");
        assert_eq!(bench.plane.flows().count(), 64, "the refused ones left no entry");
        let (_, outcome) = bench.run(&client(7, Kind::Rst).bytes());
        let freed = source_port(&outcome.packet);
        let (verdict, outcome) = bench.run(&client(80, Kind::Syn).bytes());
        assert_eq!((verdict, source_port(&outcome.packet)), (Verdict::ForwardedOtherInterface, freed));
        let (verdict, _) = bench.run(&client(81, Kind::Syn).bytes());
        assert_eq!(verdict, Verdict::DroppedNoSourcePort);
    });
}
